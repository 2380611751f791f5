"""What is worth a second try, and what a message never shows."""

from __future__ import annotations

import errno
import socket
import ssl

import aiohttp
import botocore.exceptions
import botocore.parsers
import gcsfs.retry
import google.auth.exceptions
import pytest
import requests
from fsspec.exceptions import FSTimeoutError
from s3fs.errors import translate_boto_error

from cdp_runtime.storage import StorageError, is_transient
from cdp_runtime.store_errors import Secrets, http_status, meant, safe_url


def s3(code: str, status: int) -> Exception:
    """What s3fs raises when the store answers so."""
    answer = {
        "Error": {"Code": code, "Message": "?"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    raised: Exception = translate_boto_error(botocore.exceptions.ClientError(answer, "UploadPart"))
    return raised


def gcs(status: int, content: bytes = b"?") -> Exception:
    """What gcsfs raises when the store answers so."""
    try:
        gcsfs.retry.validate_response(status, content, "b/bucket/o")
    except Exception as error:
        return error
    raise AssertionError(status)


class TestIsTransient:
    @pytest.mark.parametrize(
        "error",
        [
            ConnectionResetError(errno.ECONNRESET, "reset"),
            ConnectionRefusedError(),
            BrokenPipeError(errno.EPIPE, "pipe"),
            TimeoutError(),
            FSTimeoutError(),
            socket.gaierror(socket.EAI_AGAIN, "try again"),
            OSError(errno.ENOSPC, "No space left on device"),
            OSError(errno.EDQUOT, "Disk quota exceeded"),
            OSError(errno.EMFILE, "Too many open files"),
            OSError(errno.ESTALE, "Stale file handle"),
            aiohttp.ServerDisconnectedError(),
            aiohttp.ClientPayloadError("truncated"),
            botocore.exceptions.EndpointConnectionError(endpoint_url="http://x"),
            botocore.exceptions.ReadTimeoutError(endpoint_url="http://x"),
            botocore.exceptions.ConnectionClosedError(endpoint_url="http://x"),
            botocore.exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2),
            botocore.parsers.ResponseParserError("not XML"),
            requests.exceptions.ConnectionError("dropped"),
            google.auth.exceptions.TransportError("metadata server"),
            s3("SlowDown", 503),
            s3("ServiceUnavailable", 503),
            s3("InternalError", 500),
            s3("502", 502),
            s3("TooManyRequests", 429),
            s3("RequestTimeout", 400),
            s3("ConditionalRequestConflict", 409),
            gcs(429),
            gcs(500),
            gcs(502),
            gcs(503),
            gcs(504),
            gcs(408),
            StorageError("later", transient=True),
        ],
        ids=repr,
    )
    def test_a_store_that_may_come_back_is_waited_for(self, error: Exception) -> None:
        assert is_transient(error)

    @pytest.mark.parametrize(
        "error",
        [
            PermissionError(errno.EACCES, "denied"),
            FileNotFoundError("bucket/key"),
            FileExistsError("bucket/key"),
            OSError("something"),
            OSError(errno.EROFS, "Read-only file system"),
            ValueError("bad"),
            ssl.SSLCertVerificationError("self-signed"),
            botocore.exceptions.NoCredentialsError(),
            s3("AccessDenied", 403),
            s3("InvalidAccessKeyId", 403),
            s3("NoSuchBucket", 404),
            s3("PreconditionFailed", 412),
            s3("InvalidArgument", 400),
            gcs(400, b"invalid argument"),
            gcs(401),
            gcs(403),
            gcs(404),
            gcs(412),
            StorageError("never"),
        ],
        ids=repr,
    )
    def test_what_a_person_must_mend_is_not(self, error: Exception) -> None:
        assert not is_transient(error)

    def test_the_cause_behind_an_error_decides(self) -> None:
        outer = RuntimeError("cannot write")
        outer.__cause__ = s3("SlowDown", 503)
        assert is_transient(outer)
        outer.__cause__ = s3("AccessDenied", 403)
        assert not is_transient(outer)

    def test_what_s3fs_stumbles_over_is_the_error_behind_it(self) -> None:
        stumbled = IndexError("tuple index out of range")
        stumbled.__context__ = TimeoutError()
        assert not is_transient(stumbled)
        assert is_transient(meant(stumbled))

    def test_other_errors_are_what_they_are(self) -> None:
        for error in (IndexError("own"), OSError("own"), s3("AccessDenied", 403)):
            assert meant(error) is error

    def test_causes_that_go_in_a_circle_end(self) -> None:
        one, two = RuntimeError("one"), RuntimeError("two")
        one.__cause__, two.__cause__ = two, one
        assert not is_transient(one)


class TestHttpStatus:
    def test_each_client_tells_it_in_its_own_way(self) -> None:
        assert http_status(s3("SlowDown", 503)) == 503
        assert http_status(gcs(429)) == 429
        assert http_status(gcs(403)) == 403
        assert http_status(OSError(errno.ENOSPC, "full")) is None


class TestSafeUrl:
    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            ("s3://bucket/a", "s3://bucket/a"),
            ("/data/archive", "/data/archive"),
            ("s3://KEY:SECRET@bucket/a", "s3://***@bucket/a"),
            ("sftp://me:SECRET@host:22/a", "sftp://me:***@host:22/a"),
            ("https://TOKEN@host/a", "https://***@host/a"),
            ("https://host/a?X-Amz-Signature=SECRET&x=1", "https://host/a?X-Amz-Signature=***&x=1"),
            ("https://[broken:SECRET@host/a", "https://***@host/a"),
        ],
    )
    def test_only_what_is_no_secret_is_shown(self, url: str, shown: str) -> None:
        assert safe_url(url) == shown


class TestSecrets:
    def test_values_under_secret_names_are_hidden_at_any_depth(self) -> None:
        options = {
            "key": "AKIDCANARY",
            "secret": "canary-1",
            "client_kwargs": {"aws_session_token": "canary-2", "endpoint_url": "http://host"},
            "token": {"private_key": "canary-3", "client_email": "me@host"},
        }
        hidden = Secrets("s3://user:canary-4@bucket/a", options).hide(
            "AKIDCANARY canary-1 canary-2 http://host canary-3 canary-4"
        )
        assert hidden == "*** *** *** http://host *** ***"

    def test_the_environment_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-env")
        assert Secrets("s3://b", {}).hide("(canary-env)") == "(***)"

    def test_names_of_keys_and_ways_to_sign_in_are_shown(self) -> None:
        options = {"kms_key_name": "projects/p/keys/k", "token": "google_default"}
        text = "projects/p/keys/k by google_default"
        assert Secrets("gs://b", options).hide(text) == text

    def test_the_address_of_an_upload_is_hidden(self) -> None:
        assert (
            Secrets("gs://b", {}).hide("POST /o?upload_id=ABC&x=1") == "POST /o?upload_id=***&x=1"
        )
