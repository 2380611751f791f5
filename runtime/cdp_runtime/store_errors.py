"""What goes wrong with a store: whether waiting helps, what to tell the person, and what never to tell.

Each client says "try again" in its own way; nothing of them is imported here to recognise it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

__all__ = ["Secrets", "StorageError", "http_status", "is_transient", "meant", "safe_url"]

HIDDEN: Final = "***"
"""What stands where a secret was."""

_TRANSIENT_STATUS: Final = frozenset({408, 425, 429, 500, 502, 503, 504, 509, 529})

_TRANSIENT_CODES: Final = frozenset(
    {
        "ConditionalRequestConflict",
        "InternalError",
        "OperationAborted",
        "PriorRequestNotComplete",
        "RequestTimeout",
        "RequestTimeoutException",
        "RequestThrottled",
        "RequestLimitExceeded",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "TooManyRequestsException",
        "XAmzContentSHA256Mismatch",
        "BadDigest",
        "IncompleteBody",
    }
)
"""Codes of S3 and its likenesses that come with a status that says less."""

_TRANSIENT_ERRNO: Final = frozenset(
    getattr(errno, name)
    for name in (
        "EAGAIN",
        "EBUSY",
        "ECONNABORTED",
        "ECONNREFUSED",
        "ECONNRESET",
        "EDQUOT",
        "EHOSTDOWN",
        "EHOSTUNREACH",
        "EINTR",
        "EMFILE",
        "ENETDOWN",
        "ENETRESET",
        "ENETUNREACH",
        "ENFILE",
        "ENOBUFS",
        "ENOMEM",
        "ENOSPC",
        "EPIPE",
        "EREMOTEIO",
        "ESTALE",
        "ETIMEDOUT",
    )
    if hasattr(errno, name)
)
"""A full disk is here: somebody makes room, and nothing is lost meanwhile."""

_TRANSIENT_CLASSES: Final = frozenset(
    {
        "aiohttp.client_exceptions.ClientConnectionError",
        "aiohttp.client_exceptions.ClientPayloadError",
        "aiohttp.http_exceptions.BadHttpMessage",
        "asyncio.exceptions.IncompleteReadError",
        "botocore.exceptions.ConnectionError",
        "botocore.exceptions.HTTPClientError",
        "botocore.exceptions.IncompleteReadError",
        "botocore.parsers.ResponseParserError",
        "concurrent.futures._base.TimeoutError",
        "fsspec.exceptions.FSTimeoutError",
        "gcsfs.retry.ChecksumError",
        "google.auth.exceptions.TransportError",
        "http.client.HTTPException",
        "requests.exceptions.ConnectionError",
        "requests.exceptions.Timeout",
        "requests.exceptions.ChunkedEncodingError",
        "socket.gaierror",
        "urllib3.exceptions.HTTPError",
    }
)
"""By full name, of the class of an error or of one that it derives from."""

_PERMANENT_CLASSES: Final = frozenset(
    {
        "aiohttp.client_exceptions.ClientConnectorCertificateError",
        "aiohttp.client_exceptions.InvalidURL",
        "requests.exceptions.InvalidURL",
        "ssl.SSLCertVerificationError",
    }
)
"""Derived from transient ones, yet no wait mends them."""


class StorageError(OSError):
    """A store cannot be used; the message names the URL and what to do, and holds no secret.

    Attributes:
        transient: whether the same may succeed when it is tried again later.
    """

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


def is_transient(error: BaseException) -> bool:
    """Whether what failed may succeed when it is tried again: connections, time-outs, throttling, a full disk.

    Not so for what a person must mend first: permission, credentials, a bucket that is not there, a bad
    request. Of an error that wraps others (`__cause__`) the innermost that tells decides.
    """
    verdict = False
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        told = _verdict(cause)
        if told is not None:
            verdict = told
        cause = cause.__cause__
    return verdict


def meant(error: Exception) -> Exception:
    """The error that a client had in its hands when it stumbled over it.

    Reading fails, and s3fs looks for the number of an error that has none: an IndexError, of which the error
    itself is only the context.
    """
    behind = error.__context__
    return behind if isinstance(error, IndexError) and isinstance(behind, OSError) else error


def http_status(error: BaseException) -> int | None:
    """The status of the answer that an error stands for, if the client tells."""
    status: int | None = None
    cause: BaseException | None = error
    while cause is not None:
        status = _own_status(cause) or status
        cause = cause.__cause__
    return status


def _verdict(error: BaseException) -> bool | None:
    """What one error says by itself; None when it says nothing."""
    if isinstance(error, StorageError):
        return error.transient
    response = getattr(error, "response", None)
    if isinstance(response, Mapping) and response.get("Error", {}).get("Code") in _TRANSIENT_CODES:
        return True
    retryable = getattr(error, "retryable", None)  # of google.auth
    if retryable is True:
        return True
    own = type(error)
    names = {f"{base.__module__}.{base.__qualname__}" for base in own.__mro__}
    if names & _PERMANENT_CLASSES:
        return False
    if names & _TRANSIENT_CLASSES:
        return True
    status = _own_status(error)
    if status is not None:
        return status in _TRANSIENT_STATUS
    if isinstance(error, (TimeoutError, ConnectionError, EOFError)):
        return True
    if isinstance(error, OSError):
        # FileNotFoundError(path), as fsspec raises it, has no number but a class that says enough
        if error.errno is not None:
            return error.errno in _TRANSIENT_ERRNO
        return None if own is OSError else False
    return None


def _own_status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    told = response.get("ResponseMetadata", {}) if isinstance(response, Mapping) else {}
    for value in (
        told.get("HTTPStatusCode"),
        getattr(response, "status_code", None),
        # aiohttp's errors have both, and warn of the other one
        getattr(error, "status", None) or getattr(error, "code", None),
    ):
        with contextlib.suppress(TypeError, ValueError):
            if value is not None and 100 <= int(value) <= 599:
                return int(value)
    return 403 if str(error).startswith("Forbidden: ") else None  # gcsfs drops the number


def safe_url(url: str) -> str:
    """A URL without the secrets that may stand in it: a password, the values of a query."""
    if "://" not in url:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        return re.sub(r"//[^/]*@", f"//{HIDDEN}@", url)
    user, at, host = parts.netloc.rpartition("@")
    query = parts.query
    if query and _is_signed(query):
        query = urlencode(
            [(key, HIDDEN if _SECRET_NAME.search(key) else v) for key, v in parse_qsl(query, True)],
            safe="*",
        )
    if not at and query == parts.query:
        return url
    name, colon, _ = user.partition(":")
    # a name without a password may be a token itself (https://TOKEN@host)
    shown = f"{name}:{HIDDEN}" if colon else HIDDEN
    if colon and parts.scheme in ("s3", "s3a", "gs", "gcs"):
        shown = HIDDEN  # a key id and its secret
    return urlunsplit(parts._replace(netloc=f"{shown}@{host}" if at else host, query=query))


_SECRET_NAME: Final = re.compile(
    r"secret|token|passw|pwd|credential|signature|sig$|private|access.?key|account.?key|^key$|sas|auth",
    re.IGNORECASE,
)
_NO_SECRETS: Final = frozenset({"google_default", "cloud", "anon", "browser", "cache", "token"})
_SECRET_VARIABLES: Final = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_CLIENT_SECRET",
)


def _is_signed(query: str) -> bool:
    return any(_SECRET_NAME.search(key) for key, _ in parse_qsl(query, True))


class Secrets:
    """What must not be shown of a URL and its options, and texts without it.

    Args:
        url: of the archive.
        options: of the filesystem, nested as its client takes them.
    """

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        found = {os.environ[name] for name in _SECRET_VARIABLES if os.environ.get(name)}
        found |= set(_secret_values(options, secret=False))
        if "://" in url:
            userinfo = url.partition("://")[2].partition("/")[0].rpartition("@")[0]
            found |= {userinfo, userinfo.partition(":")[2]}
            found |= {v for k, v in parse_qsl(url.partition("?")[2]) if _SECRET_NAME.search(k)}
        # the longest first: one may be part of another
        self._values = sorted((v for v in found if len(v) >= 4), key=len, reverse=True)

    def hide(self, text: str) -> str:
        """A text without the secrets, and without the ids by which anybody may go on with an upload."""
        for value in self._values:
            text = text.replace(value, HIDDEN)
        return re.sub(r"(?i)(upload_?id=)[^&\s'\"]+", rf"\g<1>{HIDDEN}", text)


def _secret_values(value: Any, *, secret: bool) -> Iterator[str]:
    """The texts in options that stand under a name of secrets."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            name = str(key)
            # `kms_key_name` and the like name a key, they are none
            is_name = re.search(r"(?i)kms|_name$|_id$|_uri$|_url$|_file$", name) is not None
            yield from _secret_values(
                inner, secret=not is_name and (secret or _SECRET_NAME.search(name) is not None)
            )
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _secret_values(inner, secret=secret)
    elif secret and isinstance(value, (str, bytes)):
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        if text not in _NO_SECRETS and not text.startswith(("/", "~")):  # a file of credentials
            yield text
