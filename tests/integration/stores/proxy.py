"""A proxy before a store that does to some requests what networks and stores do on a bad day."""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import urlsplit


class Request(NamedTuple):
    """What a fault may be chosen by."""

    method: str
    path: str
    span: str


class Proxy:
    """Before one server; counts what passes, and what it spoils."""

    def __init__(self, upstream: str) -> None:
        self._upstream = urlsplit(upstream)
        self._lock = threading.Lock()
        self.choose: Callable[[Request], str | None] = lambda request: None
        self.spoiled: list[tuple[str, str]] = []
        self.passed: list[Request] = []
        self._serving = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def spoil_writes(self, fault: str) -> None:
        """Does something to the first attempt of each request that writes."""
        seen: set[Request] = set()

        def choose(request: Request) -> str | None:
            with self._lock:
                if request.method in ("PUT", "POST") and request not in seen:
                    seen.add(request)
                    return fault
            return None

        self.choose = choose

    def settle(self) -> None:
        """Waits until everything that was asked of the server is done, also for those who died since."""
        while self._serving:
            time.sleep(0.005)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                with contextlib.suppress(ConnectionError, TimeoutError):
                    super().handle_one_request()
                    return
                self.close_connection = True

            def any(self) -> None:
                with proxy._lock:
                    proxy._serving += 1
                try:
                    proxy.serve(self)
                finally:
                    with proxy._lock:
                        proxy._serving -= 1

            def __getattr__(self, name: str) -> Any:
                if name.startswith("do_"):
                    return self.any
                raise AttributeError(name)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        request = Request(handler.command, handler.path, handler.headers.get("Content-Range", ""))
        if handler.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = self._chunked(handler)
        else:
            body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        fault = self.choose(request)
        if fault is not None:
            with self._lock:
                self.spoiled.append((fault, f"{request.method} {request.path}"))
        if fault == "reset":
            return self._reset(handler)
        if fault == "stall":
            time.sleep(1.5)
            return self._reset(handler)
        if fault is not None and fault[0].isdigit():
            status, _, code = fault.partition(" ")
            text = f"<Error><Code>{code or f'Fault{status}'}</Code><Message>fault</Message></Error>".encode()
            handler.send_response(int(status))
            handler.send_header("Content-Length", str(len(text)))
            handler.end_headers()
            if request.method != "HEAD":
                handler.wfile.write(text)
            return None
        with self._lock:
            self.passed.append(request)
        answer, data = self._forward(handler, request, body)
        if fault == "reset-after":
            return self._reset(handler)
        handler.send_response_only(answer.status, answer.reason)
        own, theirs = urlsplit(self.endpoint).netloc, self._upstream.netloc
        for key, value in answer.getheaders():
            if key.lower() not in ("transfer-encoding", "connection", "content-length"):
                handler.send_header(key, value.replace(theirs, own))
        length = answer.getheader("Content-Length") if request.method == "HEAD" else None
        handler.send_header("Content-Length", length or str(len(data)))
        handler.end_headers()
        if fault == "truncate":
            handler.wfile.write(data[: len(data) // 2])
            return self._reset(handler)
        if request.method != "HEAD":
            handler.wfile.write(data)
        return None

    def _forward(
        self, handler: BaseHTTPRequestHandler, request: Request, body: bytes
    ) -> tuple[http.client.HTTPResponse, bytes]:
        assert self._upstream.hostname is not None
        connection = http.client.HTTPConnection(
            self._upstream.hostname, self._upstream.port, timeout=30
        )
        connection.putrequest(
            request.method, request.path, skip_host=True, skip_accept_encoding=True
        )
        for key, value in handler.headers.items():
            if key.lower() not in ("transfer-encoding", "connection", "expect", "content-length"):
                connection.putheader(key, value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer, data

    @staticmethod
    def _chunked(handler: BaseHTTPRequestHandler) -> bytes:
        body = b""
        while size := int(handler.rfile.readline().split(b";")[0], 16):
            body += handler.rfile.read(size)
            handler.rfile.readline()
        while handler.rfile.readline().strip():
            pass
        return body

    @staticmethod
    def _reset(handler: BaseHTTPRequestHandler) -> None:
        linger = struct.pack("ii", 1, 0)
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        handler.close_connection = True
        with contextlib.suppress(OSError):
            handler.wfile.flush()
        handler.connection.close()


@contextlib.contextmanager
def before(upstream: str) -> Iterator[Proxy]:
    """A proxy before a server, until the block ends."""
    proxy = Proxy(upstream)
    try:
        yield proxy
    finally:
        proxy.close()
