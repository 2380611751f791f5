"""Where messages come from: files and standard input, framed as length-delimited protobuf or NDJSON.

A source is an iterator of batches, each with the place of every message, and of dead letters for what
is no message. It reads as it is asked, and holds little more than a block of its input.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from cdp_runtime.config import ConfigError
from cdp_runtime.dead_letter import DeadLetter
from cdp_runtime.payloads import Payloads, Positions
from cdp_runtime.positions import Prefix

if TYPE_CHECKING:
    from cdp_runtime.config import Format, SourceConfig

__all__ = ["Batch", "Never", "Stop", "format_of", "inputs_of", "read_inputs"]

_FORMATS: Final[dict[str, Format]] = {
    "pb": "delimited",
    "binpb": "delimited",
    "delimited": "delimited",
    "ndjson": "ndjson",
    "jsonl": "ndjson",
}
"""The framing by a file's extension, below that of a compression."""


class Batch(NamedTuple):
    """Messages of one input, and the place of each: its number, or that of its line."""

    payloads: Payloads
    source: str
    positions: Positions | Sequence[int]


class Stop(Protocol):
    """A request to stop, which also wakes who waits for input."""

    requested: bool

    def fileno(self) -> int:
        """A descriptor that becomes readable with the request."""


class Never:
    """The stop of who reads files alone, which nobody waits for: it is never requested."""

    requested = False

    def fileno(self) -> int:
        """There is none."""
        raise AssertionError("nothing waits")


class Input(NamedTuple):
    """One file or URL, or standard input as `-`, with its framing."""

    path: str
    format: Format
    config: SourceConfig

    @property
    def is_stream(self) -> bool:
        """Whether what it gives is gone then: standard input, a named pipe, a device."""
        if self.path == "-":
            return True
        try:
            return "://" not in self.path and not stat.S_ISREG(os.stat(self.path).st_mode)
        except OSError:
            return False  # whoever opens it will say why

    @property
    def how(self) -> tuple[object, ...]:
        """How it is read, wherever it lies."""
        return self.format, self.config.model_copy(update={"path": "", "format": None})


def format_of(path: str) -> Format | None:
    """The framing of a file by its extension, below that of a compression; None where that does not tell."""
    from .files import compression_of

    compression = compression_of(path)
    stem = path if compression is None else path.removesuffix("." + compression[1])
    return _FORMATS.get(stem.rpartition(".")[2].lower())


def inputs_of(configs: Sequence[SourceConfig]) -> list[Input]:
    """The inputs that some sources name, globs resolved, each glob in the order of names.

    One that is named twice, by a glob or a link too, is read once.

    Raises:
        ConfigError: there is no such file, or nothing says how it is framed, or it is to be read in two ways.
        StorageError: the store of a URL does not tell.
    """
    from .files import expand
    from .identity import file_at

    inputs: list[Input] = []
    known: dict[str | tuple[int, int], Input] = {}
    for config in configs:
        for path in expand(config.path, config.storage_options):
            if path == "-" and sys.stdin is None:
                raise ConfigError("standard input (-) is closed")
            found = config.format or format_of(path)
            if found is None and path == "-":
                raise ConfigError(
                    "standard input (-) does not tell its format: say delimited or ndjson "
                    "(--format, or format: in the pipeline file)"
                )
            if found is None:
                raise ConfigError(
                    f"{path}: its name does not tell the format: say delimited or ndjson, or use one "
                    f"of the extensions {', '.join('.' + name for name in _FORMATS)}"
                )
            for key in ("fields", "ignore_unknown"):
                if found != "ndjson" and (value := getattr(config, key)):
                    raise ConfigError(
                        f"{key}: {value!r} is not allowed: {path} is {found}, and only ndjson has keys"
                    )
            one = Input(path, found, config)
            # a file that is named - is not standard input
            before = one if path == "-" else known.setdefault(file_at(path), one)
            if before is one:
                inputs.append(one)
            elif before.how != one.how:
                raise ConfigError(
                    f"{path}: is to be read in two ways: what is said of {before.path} is not the same"
                )
    return inputs


def read_inputs(
    inputs: Sequence[Input],
    message_type: Callable[[], type[Any]],
    stop: Stop,
    log: Any = None,
    *,
    known: Mapping[str, Prefix] = MappingProxyType({}),
    note: Callable[[str, Prefix], None] = lambda source, prefix: None,
    broken: Callable[[OSError], None] | None = None,
) -> Iterator[Batch | DeadLetter]:
    """Reads inputs one after the other until they end or a stop is requested.

    Args:
        inputs: what to read.
        message_type: gives the class of the messages; asked only where JSON has to become one, or it is to be
            told whether an input begins with one.
        stop: standard input is then read on as far as it has been sent; files are left at once.
        log: told, for debugging, of each input as it begins and ends.
        known: what footers tell of the beginnings of inputs, by the names of these.
        note: told, before each item, of its source and what was read of that so far, for footers.
        broken: told of an input that cannot be read on, before the next one is; the error names it.

    Raises:
        OSError: an input cannot be read on, and nobody wants to be told.
    """
    from .delimited import read_delimited
    from .files import open_input
    from .identity import Beginning, named
    from .magic import Refusing
    from .ndjson import read_ndjson

    for one in inputs:
        if stop.requested:
            return
        if log is not None:
            log.debug("reading", source=one.path, format=one.format)
        limit = int(one.config.max_message_mb * (1 << 20))
        reopen = partial(open_input, one.path, stop, one.config.storage_options)
        try:
            with reopen() as opened:
                framed = message_type if one.format == "delimited" else None
                reader = Beginning(Refusing(opened, one.path, framed))
                if one.format == "delimited":
                    items = read_delimited(reader, one.path, max_message_bytes=limit)
                else:
                    items = read_ndjson(
                        reader,
                        one.path,
                        message_type(),
                        fields=one.config.fields,
                        ignore_unknown=one.config.ignore_unknown,
                        max_line_bytes=limit,
                    )
                for item in named(items, one, reader, reopen, known, note, stop):
                    yield item
                    if stop.requested and not one.is_stream:
                        return
        except OSError as error:
            if broken is None:
                raise
            broken(error)
            continue
        if log is not None and not stop.requested:
            log.debug("read to the end", source=one.path)
