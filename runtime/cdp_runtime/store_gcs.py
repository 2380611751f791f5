"""An archive in Google Cloud Storage: resumable uploads, ended last.

Nobody sees an upload before it has ended, and one that a dead writer leaves costs nothing and is gone
after a week by itself. The parts of one go one after another, as the protocol has it, while the next are
encoded; several files go at once. As each part waits for its answer before the next one goes, they grow with
the file: a part of 8 MB takes about as long as the way to Google and back.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, Final
from urllib.parse import quote

from .storage import TEMPORARY, Upload, address, checked_path, filesystem_of
from .store_errors import StorageError, http_status, is_transient, safe_url
from .store_other import GONE, RemoteStorage
from .store_parts import PART_BYTES, Lanes
from .store_upload import BufferedUpload

__all__ = ["GcsStorage"]

_CALL_SECONDS: Final = 300
_QUANTUM: Final = 1 << 18
"""What is kept of an upload that has not ended is a multiple of this."""

_LARGEST_PART: Final = 32 << 20
_POOL: Final = 64 << 20
"""What the parts of all open uploads may hold together before they are made smaller, down to `PART_BYTES`."""

_TYPE: Final = "application/vnd.apache.parquet"

_FILE_OPTIONS: Final = ("metadata", "kms_key_name", "storage_class", "fixed_key_metadata", "acl")
"""Options that gcsfs takes for each file, or not at all; with us they stand beside the others."""

_ADVICE: Final = {
    401: "no valid credentials: gcloud auth application-default login; or GOOGLE_APPLICATION_CREDENTIALS=FILE; "
    "on Google Cloud a service account of the instance or workload; or storage_options token",
    403: "the account may not do that: gcloud storage buckets add-iam-policy-binding gs://{bucket} "
    "--member=ACCOUNT --role=roles/storage.objectUser",
    404: "make it (gcloud storage buckets create gs://{bucket}), or correct the name",
}


class GcsStorage(RemoteStorage):
    """A bucket, or a folder in one.

    Args:
        url: of the archive.
        options: of `gcsfs.GCSFileSystem`, and of its files.
        writer: the id of the writer; None to read only.
    """

    def __init__(self, url: str, options: Mapping[str, Any], writer: str | None) -> None:
        own = {key: value for key, value in options.items() if key not in _FILE_OPTIONS}
        filesystem, root = filesystem_of(url, own)
        super().__init__(url, options, filesystem, root, writer)
        self.bucket, _, self._folder = self.root.partition("/")
        if not self.bucket:
            raise StorageError(f"{safe_url(url)}: names no bucket (gs://BUCKET/FOLDER)")
        self.lanes: Final = Lanes()
        self.open_uploads: Final[set[object]] = set()
        self._uploads = (
            f"{filesystem._location}/upload/storage/v1/b/{quote(self.bucket, safe='')}/o"
        )
        self._about = {
            **options.get("fixed_key_metadata", {}),
            **({"metadata": options["metadata"]} if "metadata" in options else {}),
            **({"storageClass": options["storage_class"]} if "storage_class" in options else {}),
        }
        self._query = {
            **({"kmsKeyName": options["kms_key_name"]} if "kms_key_name" in options else {}),
            **({"predefinedAcl": options["acl"]} if "acl" in options else {}),
        }
        if writer is not None:
            self.probe(self._try_to_write)

    def create(self, path: str, *, replace: bool = False) -> Upload:
        """Begins a file."""
        inside = checked_path(path)
        return _GcsUpload(self, f"{self._folder}/{inside}" if self._folder else inside, replace)

    def store(self) -> str:
        """The endpoint, wherever the client has it from; all of Google's own are one."""
        found = address(self.filesystem._location)
        return "googleapis.com" if found.endswith(".googleapis.com") else found

    def close(self) -> None:
        """Ends the threads."""
        self.lanes.close()

    def about(self, key: str) -> dict[str, Any]:
        """What an object is to be."""
        return {"name": key, "contentType": _TYPE, **self._about}

    def request(
        self, method: str, url: str, **arguments: Any
    ) -> tuple[int, Mapping[str, str], bytes]:
        """One request, tried once: the writer itself tries again, and counts. Status, headers, body."""
        from fsspec.asyn import sync

        filesystem = self.filesystem
        once = type(filesystem)._request
        once = getattr(once, "__wrapped__", once)  # without gcsfs' own six attempts
        status, headers, _, body = sync(
            filesystem.loop, once, filesystem, method, url, timeout=_CALL_SECONDS, **arguments
        )
        return status, headers, body

    def begin(self, key: str, *, replace: bool = False) -> str:
        """Begins an upload of an object; its address, which is a secret."""
        _, headers, _ = self.request(
            "POST",
            self._uploads,
            uploadType="resumable",
            name=key,
            json=self.about(key),
            headers={"X-Upload-Content-Type": _TYPE},
            **self._unseen(replace),
            **self._query,
        )
        return str(headers["Location"])

    def put(self, key: str, data: bytes, *, replace: bool = False) -> None:
        """Makes a small object appear in one request."""
        line = "==cdpgen=="
        about = json.dumps(self.about(key))
        head = (
            f"--{line}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{about}\r\n"
            f"--{line}\r\nContent-Type: {_TYPE}\r\n\r\n"
        )
        self.request(
            "POST",
            self._uploads,
            uploadType="multipart",
            data=head.encode() + data + f"\r\n--{line}--".encode(),
            headers={"Content-Type": f'multipart/related; boundary="{line}"'},
            **self._unseen(replace),
            **self._query,
        )

    @staticmethod
    def _unseen(replace: bool) -> dict[str, str]:
        """The condition that an object is not there yet.

        Names are unique to a writer and a file, so it never fails but for a second writer that has been given
        the id of another: it keeps that from replacing anything.
        """
        return {} if replace else {"ifGenerationMatch": "0"}

    def cancel(self, address: str) -> None:
        """Leaves nothing of an upload, as far as the store answers."""
        with contextlib.suppress(Exception):
            self.request("DELETE", address)

    def reason(self, error: Exception) -> str:
        """What is missing, and how to get it; what the store said otherwise."""
        status = http_status(error)
        if status is None and isinstance(error, FileNotFoundError):
            status = 404
        if "upload_id=" in str(error) and status in (404, 410):
            return GONE
        if status == 404:
            return f"there is no bucket {self.bucket}: {_ADVICE[404].format(bucket=self.bucket)}"
        said = super().reason(error)
        advice = _ADVICE.get(status or 0)
        return f"{said}: {advice.format(bucket=self.bucket)}" if advice else said

    def _try_to_write(self) -> None:
        """Begins what is never ended: that asks for all that writing does, and leaves nothing."""
        with self.told(f"cannot write there (storage.objects.create on gs://{self.bucket})"):
            self.cancel(self.begin(f"{self._folder}/{TEMPORARY}/{self.writer}.probe".lstrip("/")))
        with self.told(f"cannot list it (storage.objects.list on gs://{self.bucket})"):
            self.request(
                "GET", f"{self.filesystem.base}b/{quote(self.bucket, safe='')}/o", maxResults=1
            )


class _GcsUpload(BufferedUpload):
    """One file: a single request when it is small, an upload that can be gone on with otherwise."""

    def __init__(self, storage: GcsStorage, key: str, replace: bool) -> None:
        super().__init__()
        self._storage = storage
        self._key = key
        self._replace = replace
        self._address: str | None = None
        self._offset = 0
        self._part = b""
        self._flying: Future[int] | None = None
        self._doubt = False

    def _push(self, *, last: bool) -> None:
        with self._storage.told(f"cannot upload {self._key}"):
            if self._address is None:
                if self._taken.size < PART_BYTES:
                    return
                self._address = self._storage.begin(self._key, replace=self._replace)
                self._storage.open_uploads.add(self)
            self._land(wait=last)
            # the last part, however small, goes with the end of the upload
            while self._taken.size > (size := self._part_size()):
                self._land(wait=True)
                self._part = self._part or self._taken.cut(size)
                self._flying = self._storage.lanes.send(lambda: self._send(total=None))
            self._land(wait=last)
            while self._part and self._flying is None:  # what failed before, or was taken in part
                self._flying = self._storage.lanes.send(lambda: self._send(total=None))
                self._land(wait=last)

    def _part_size(self) -> int:
        """Four times as much as before, as far as there is room for it beside the other uploads."""
        room = min(_LARGEST_PART, _POOL // len(self._storage.open_uploads))
        size = min(room, 3 * (self._offset + len(self._part)) + PART_BYTES)
        return max(PART_BYTES, size // _QUANTUM * _QUANTUM)

    def _send(self, total: int | None) -> int:
        """Sends the part, or what of it the store does not have yet; how far the store then is."""
        assert self._address is not None
        offset, part = self._offset, self._part
        if self._doubt:
            known = self._known(offset + len(part) if total is not None else None)
            if known >= offset + len(part):
                return known
            part = part[max(0, known - offset) :]
            offset = max(offset, known)
        end = "*" if total is None else total
        span = f"{offset}-{offset + len(part) - 1}" if part else "*"
        self._doubt = True
        status, headers, _ = self._storage.request(
            "POST",  # not PUT, which aiohttp sends again by itself
            self._address,
            data=part,
            headers={"Content-Range": f"bytes {span}/{end}", "Content-Type": _TYPE},
        )
        self._doubt = False
        return offset + len(part) if status != 308 else _reached(headers, offset)

    def _known(self, total: int | None) -> int:
        """How many bytes the store has, when an answer of it was lost."""
        assert self._address is not None
        status, headers, _ = self._storage.request(
            "POST", self._address, headers={"Content-Range": f"bytes */{total or '*'}"}
        )
        return _reached(headers, 0) if status == 308 else total or self._offset

    def _land(self, *, wait: bool) -> None:
        """Takes note of the part that has arrived; what the store did not take of it is sent again."""
        if self._flying is None or not (wait or self._flying.done()):
            return
        flying, self._flying = self._flying, None
        reached = flying.result()
        self._part = self._part[reached - self._offset :]
        self._offset = reached

    def _finish(self) -> None:
        with self._storage.told(f"cannot publish {self._key}"):
            rest = self._taken.cut(self._taken.size)
            size = self._offset + len(rest)
            try:
                if self._address is None:
                    self._storage.put(self._key, rest, replace=self._replace)
                else:
                    self._part = rest
                    while (reached := self._send(total=size)) < size:
                        self._part = self._part[reached - self._offset :]
                        self._offset = reached
            except Exception as error:
                self._taken.put_back(self._part if self._address is not None else rest)
                self._part = b""
                # the answer to an attempt before may have been lost: then the object is there (or was before)
                path = f"{self._storage.bucket}/{self._key}"
                if is_transient(error) or self._replace or self._storage.size_of(path) != size:
                    raise
                self._taken.clear()
        self._storage.open_uploads.discard(self)

    def _forget(self) -> None:
        self._storage.open_uploads.discard(self)
        if self._flying is not None:
            with contextlib.suppress(BaseException):
                self._flying.result()
        if self._address is not None:
            self._storage.cancel(self._address)


def _reached(headers: Mapping[str, str], default: int) -> int:
    """How many bytes the store has, by the header that says it."""
    told = headers.get("Range")
    if told is None:
        return default
    return (int(told.rpartition("-")[2]) + 1) // _QUANTUM * _QUANTUM
