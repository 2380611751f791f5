"""What a command says of trouble with an archive or with standard output, and the code with which it ends."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import pyarrow as pa

from .log import STANDARD_ERROR, STANDARD_OUTPUT
from .storage import StorageError

__all__ = ["FOREIGN", "exit_code", "failed", "reason", "standard_output", "unreadable"]

FOREIGN = "cdpgen did not write it; move it out of the archive"
"""What is said of somebody else's Parquet file, after what it is known by."""


def reason(error: Exception) -> str:
    """Why a Parquet file cannot be read, without its path, and what to do where it is damaged."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnicodeDecodeError):
        return f"its columns have names that are no UTF-8, so {FOREIGN}"
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    if isinstance(error, StorageError) or not isinstance(error, OSError | pa.ArrowInvalid):
        return text
    return f"{text}; move it out of the archive: what was in it comes again from its source, or from a backup"


def unreadable(shown: str, error: Exception, part: str = "") -> str:
    """The line that says that a Parquet file cannot be read.

    Args:
        shown: its path, as a person would type it.
        error: of the store or of Parquet; of what is done with the values it would say the wrong thing.
        part: of the file.
    """
    if isinstance(error, StorageError):
        return str(error)  # it names the file
    return f"{shown}: {part and f'{part}: '}cannot be read: {reason(error)}"


def exit_code(error: OSError) -> int:
    """With what a command ends: 2 where the URL is not to be used as an archive, and 1 where that may pass, or
    what is wrong was found in a file.
    """
    return 2 if isinstance(error, StorageError) and not error.transient else 1


def failed(error: OSError) -> int:
    """Says on standard error what is wrong, and gives the exit code; a reader that has gone has seen enough."""
    if isinstance(error, BrokenPipeError):
        return 1
    named = error.filename and error.strerror  # str() begins with the number
    print(f"{error.filename}: {error.strerror}" if named else error, file=STANDARD_ERROR)
    return exit_code(error)


@contextlib.contextmanager
def standard_output() -> Iterator[None]:
    """Sees that what the block prints is written when it ends.

    Raises:
        OSError: it cannot be; it names standard output.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        STANDARD_OUTPUT.forget()
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, "standard output") from None
