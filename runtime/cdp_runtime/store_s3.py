"""An archive in S3, or what speaks like it: multipart uploads in parallel parts, completed last.

Nobody sees an upload before it is complete, so a writer that dies leaves no file, only parts that are
paid for. Whoever starts next aborts those of the dead. How a dead writer is told from a living one:
each that has uploads open keeps one more, `_tmp/<writer id>.alive`, of which nothing ever comes, and
begins it anew every hour. An upload that is a day old and whose writer has begun nothing for a day
belongs to nobody. All times are the store's own.
"""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import re
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Final, NamedTuple

from .storage import TEMPORARY, Upload, address, checked_path, filesystem_of
from .store_errors import StorageError, http_status, is_transient, safe_url
from .store_other import GONE, GRACE_SECONDS, RemoteStorage
from .store_parts import PART_BYTES, Lanes
from .store_upload import BufferedUpload

__all__ = ["S3Storage", "Unfinished", "abandoned"]

_RENEW_SECONDS: Final = 3600
_CALL_SECONDS: Final = 300
"""A call that takes longer, a part of 8 MB with it, is taken for lost."""

_OURS: Final = re.compile(r"[^/-]+-([^/]+)-\d+\.parquet$")
_ALIVE: Final = re.compile(rf"(?:^|/){TEMPORARY}/([^/]+)\.alive$")


class Unfinished(NamedTuple):
    """An upload that nobody has completed: its key, its id, and when it was begun."""

    key: str
    upload: str
    begun: datetime.datetime


class S3Storage(RemoteStorage):
    """A bucket, or a folder in one.

    Args:
        url: of the archive.
        options: of `s3fs.S3FileSystem`.
        writer: the id of the writer; None to read only.
    """

    def __init__(self, url: str, options: Mapping[str, Any], writer: str | None) -> None:
        filesystem, root = filesystem_of(url, _own_retries(options) if writer else options)
        if writer:
            filesystem.retries = 1
        super().__init__(url, options, filesystem, root, writer)
        bucket, _, folder = self.root.partition("/")
        if not bucket:
            raise StorageError(f"{safe_url(url)}: names no bucket (s3://BUCKET/FOLDER)")
        self.bucket: Final = bucket
        self._folder: Final = folder
        self.lanes: Final = Lanes()
        self.conditional = True
        self._alive: str | None = None
        self._ended = threading.Event()
        self._life = threading.Lock()
        if writer is not None:
            self.probe(self._try_to_write)
            self._bury()

    def create(self, path: str, *, replace: bool = False) -> Upload:
        """Begins a file."""
        return _S3Upload(self, self.key(checked_path(path)), replace)

    def close(self) -> None:
        """Ends the sign of life."""
        self._ended.set()
        with self._life:
            if self._alive is not None:
                self.abort(self.key(self._alive_path()), self._alive)
                self._alive = None
        self.lanes.close()

    def key(self, path: str) -> str:
        """The key of a path below the archive."""
        return f"{self._folder}/{path}" if self._folder else path

    def call(self, method: str, **arguments: Any) -> Any:
        """One call of the S3 API, with what the user's options say for all of them."""
        return self.filesystem.call_s3(
            method, Bucket=self.bucket, timeout=_CALL_SECONDS, **arguments
        )

    def unseen(self, method: str, **arguments: Any) -> Any:
        """A call that makes an object appear, and fails where there is one already.

        Names are unique to a writer and a file, so the condition never fails but for a second writer that has
        been given the id of another: it keeps that from replacing anything.
        """
        if self.conditional:
            try:
                return self.call(method, IfNoneMatch="*", **arguments)
            except Exception as error:
                if _code(error) != "NotImplemented" and http_status(error) != 501:
                    raise
                self.conditional = False  # not every store that speaks S3 knows the condition
        return self.call(method, **arguments)

    def size_of(self, path: str) -> int | None:
        """The size of what lies at a path of the store, from a list: who writes may list, not read."""
        key = path.removeprefix(f"{self.bucket}/")
        # of all that begin so the key itself comes first
        page = self.call("list_objects_v2", Prefix=key, MaxKeys=1)
        return next((one["Size"] for one in page.get("Contents", ()) if one["Key"] == key), None)

    def store(self) -> str:
        """The endpoint, wherever the client has it from; of Amazon's own the partition."""
        client = self.filesystem.s3.meta
        found = address(client.endpoint_url)
        # each region has endpoints of its own there, and a bucket one name in all of them
        return (
            str(client.partition) if re.search(r"\.amazonaws\.com(\.cn)?(:|/|$)", found) else found
        )

    def abort(self, key: str, upload: str) -> None:
        """Leaves nothing of an upload, as far as the store answers."""
        with contextlib.suppress(Exception):
            self.call("abort_multipart_upload", Key=key, UploadId=upload)

    def stay_alive(self) -> None:
        """Begins to show that this writer lives, before its first upload."""
        with self._life:
            if self._alive is None and not self._ended.is_set():
                self._show_life()
                threading.Thread(target=self._keep_alive, name="alive", daemon=True).start()

    def reason(self, error: Exception) -> str:
        """What is missing, and how to get it; what the store said otherwise."""
        said = super().reason(error)
        code = _code(error)
        advice = _ADVICE.get(code or type(error).__name__)
        if advice is None and http_status(error) == 403:
            advice = _ADVICE["AccessDenied"]
        if advice is None and isinstance(error, FileNotFoundError) and "ucket" in said:
            advice = _ADVICE["NoSuchBucket"]
        if advice is None:
            return f"{said} ({code})" if code and code not in said else said
        return (
            f"{said} ({code}): {advice.format(bucket=self.bucket)}"
            if code
            else (f"{said}: {advice.format(bucket=self.bucket)}")
        )

    def _try_to_write(self) -> None:
        """Writes what is never completed: that asks for all that writing does, and leaves nothing."""
        key = self.key(f"{TEMPORARY}/{self.writer}.probe")
        arn = f"arn:aws:s3:::{self.bucket}/{self.key('*')}"
        with self.told(f"cannot write there (s3:PutObject on {arn})"):
            upload = self.call("create_multipart_upload", Key=key)["UploadId"]
        try:
            with self.told(
                f"cannot write there (s3:PutObject on {arn}, and its KMS key if it has one)"
            ):
                self.call("upload_part", Key=key, UploadId=upload, PartNumber=1, Body=b"0")
        finally:
            self.abort(key, upload)
        with self.told(f"cannot list it (s3:ListBucket on arn:aws:s3:::{self.bucket})"):
            self.call("list_objects_v2", Prefix=self.key(""), MaxKeys=1)

    # ---- the living and the dead

    def _alive_path(self) -> str:
        return f"{TEMPORARY}/{self.writer}.alive"

    def _show_life(self) -> None:
        key, before = self.key(self._alive_path()), self._alive
        self._alive = self.call("create_multipart_upload", Key=key)["UploadId"]
        if before is not None:
            self.abort(key, before)

    def _keep_alive(self) -> None:
        while not self._ended.wait(_RENEW_SECONDS):
            with self._life, contextlib.suppress(Exception):  # the next hour tries again
                if not self._ended.is_set():
                    self._show_life()

    def _bury(self) -> None:
        """Aborts the uploads of dead writers, where the store lets us see them."""
        from .log import logger

        try:
            now, uploads = self._unfinished()
        except Exception as error:
            if is_transient(error):
                return  # the next start tidies
            logger().warning(
                "unfinished uploads of dead writers stay: they cannot be listed",
                archive=self.url,
                missing="s3:ListBucketMultipartUploads",
                instead="a lifecycle rule AbortIncompleteMultipartUpload",
            )
            return
        for one in abandoned(uploads, now):
            self.abort(one.key, one.upload)

    def _unfinished(self) -> tuple[datetime.datetime, list[Unfinished]]:
        """The store's time, and the uploads below the archive that nobody has completed."""
        uploads: list[Unfinished] = []
        markers: dict[str, str] = {}
        while True:
            page = self.call("list_multipart_uploads", Prefix=self.key(""), **markers)
            uploads += [
                Unfinished(one["Key"], one["UploadId"], one["Initiated"])
                for one in page.get("Uploads", ())
            ]
            if not page.get("IsTruncated"):
                break
            markers = {
                "KeyMarker": page["NextKeyMarker"],
                "UploadIdMarker": page["NextUploadIdMarker"],
            }
        date = page["ResponseMetadata"]["HTTPHeaders"].get("date")
        now = (
            email.utils.parsedate_to_datetime(date) if date else datetime.datetime.now(datetime.UTC)
        )
        return now, uploads


def abandoned(uploads: Sequence[Unfinished], now: datetime.datetime) -> list[Unfinished]:
    """Those among all unfinished uploads of an archive that a dead writer has left."""
    old = now - datetime.timedelta(seconds=GRACE_SECONDS)
    living = {found[1] for one in uploads if one.begun > old and (found := _ALIVE.search(one.key))}
    left = []
    for one in uploads:
        found = _OURS.search(one.key) or _ALIVE.search(one.key)
        if found and one.begun <= old and found[1] not in living:
            left.append(one)
    return left


class _S3Upload(BufferedUpload):
    """One file: a single put when it is small, parts otherwise."""

    def __init__(self, storage: S3Storage, key: str, replace: bool) -> None:
        super().__init__()
        self._storage = storage
        self._key = key
        self._replace = replace
        self._size = 0
        self._upload: str | None = None
        self._etags: dict[int, dict[str, str]] = {}
        self._parts = 0
        self._waiting: dict[int, bytes] = {}
        self._flying: dict[int, tuple[bytes, Future[Any]]] = {}

    def _push(self, *, last: bool) -> None:
        with self._storage.told(f"cannot upload {self._key}"):
            if self._upload is None:
                if self._taken.size < PART_BYTES:
                    return
                self._storage.stay_alive()
                self._upload = self._storage.call("create_multipart_upload", Key=self._key)[
                    "UploadId"
                ]
            self._land(wait=False)
            while self._waiting or self._taken.size >= (1 if last else PART_BYTES):
                if not self._waiting:
                    self._parts += 1
                    self._waiting[self._parts] = self._taken.cut(PART_BYTES)
                number, data = next(iter(self._waiting.items()))
                del self._waiting[number]
                self._flying[number] = data, self._storage.lanes.send(self._sender(number, data))
                self._land(wait=False)
            self._land(wait=last)

    def _sender(self, number: int, data: bytes) -> Any:
        return lambda: self._storage.call(
            "upload_part", Key=self._key, UploadId=self._upload, PartNumber=number, Body=data
        )

    def _land(self, *, wait: bool) -> None:
        """Takes note of the parts that have arrived, and back those that have not."""
        failure: BaseException | None = None
        for number, (data, future) in list(self._flying.items()):
            if not wait and not future.done():
                continue
            error = future.exception()
            del self._flying[number]
            if error is None:
                answer = future.result()
                self._size += len(data)
                self._etags[number] = {
                    key: answer[key] for key in answer if key == "ETag" or key in _CHECKSUMS
                }
            else:
                self._waiting[number] = data
                failure = error
        if failure is not None:
            raise failure

    def _finish(self) -> None:
        with self._storage.told(f"cannot publish {self._key}"):
            if self._upload is None:
                body = self._taken.cut(self._taken.size)
                size = len(body)
                try:
                    self._appear("put_object", size, Key=self._key, Body=body)
                except BaseException:
                    self._taken.put_back(body)
                    raise
                return
            parts = [{"PartNumber": n, **self._etags[n]} for n in sorted(self._etags)]
            self._appear(
                "complete_multipart_upload",
                self._size,
                Key=self._key,
                UploadId=self._upload,
                MultipartUpload={"Parts": parts},
            )

    def _appear(self, method: str, size: int, **arguments: Any) -> None:
        try:
            if self._replace:
                self._storage.call(method, **arguments)
            else:
                self._storage.unseen(method, **arguments)
        except Exception as error:
            # the answer to an attempt before may have been lost: then the upload is gone and the object there,
            # which tells nothing by itself of one that was there before; a conflict is with that attempt, too,
            # while the store is still at it, and an upload that it ends for good is gone at the next
            if (
                is_transient(error)
                or (self._replace and _code(error) != "NoSuchUpload")
                or self._storage.size_of(f"{self._storage.bucket}/{self._key}") != size
            ):
                raise

    def _forget(self) -> None:
        for _, future in self._flying.values():
            future.cancel()
        if self._upload is None:
            return
        for _, future in self._flying.values():
            with contextlib.suppress(BaseException):
                future.result()
        self._storage.abort(self._key, self._upload)


_CHECKSUMS: Final = frozenset(
    f"Checksum{kind}" for kind in ("CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256")
)

_CREDENTIALS: Final = (
    "give credentials as the AWS CLI takes them (AWS_PROFILE; AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; "
    "the role of the instance, task or pod), or storage_options key and secret, or anon: true"
)
_ADVICE: Final = {
    "NoSuchUpload": GONE,
    "AccessDenied": "the credentials may not do that: add the permission to their IAM policy, and see "
    "that no bucket policy denies it",
    "NoSuchBucket": "make it (aws s3 mb s3://{bucket}), or correct the name",
    "NoCredentialsError": _CREDENTIALS,
    "PartialCredentialsError": _CREDENTIALS,
    "ProfileNotFound": _CREDENTIALS,
    "InvalidAccessKeyId": _CREDENTIALS,
    "SignatureDoesNotMatch": "the secret does not belong to the key id, or a proxy changes requests",
    "ExpiredToken": "the session is over: sign in anew (aws sso login, or a new token)",
    "PermanentRedirect": "the bucket is in another region: set region",
    "AuthorizationHeaderMalformed": "the bucket is in another region: set region",
    "IllegalLocationConstraintException": "the bucket is in another region: set region",
    "RequestTimeTooSkewed": "the clock of this machine is wrong",
    "EndpointConnectionError": "nothing answers there: see storage_options endpoint_url and region",
}


def _code(error: BaseException) -> str | None:
    """The code of the store's answer behind an error."""
    cause: BaseException | None = error
    while cause is not None:
        response = getattr(cause, "response", None)
        if isinstance(response, Mapping):
            return str(response.get("Error", {}).get("Code") or "") or None
        cause = cause.__cause__
    return None


def _own_retries(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a client that tries each request once: the writer itself tries again, and counts."""
    config = {"retries": {"total_max_attempts": 1}, **options.get("config_kwargs", {})}
    return {**options, "config_kwargs": config, "skip_instance_cache": True}
