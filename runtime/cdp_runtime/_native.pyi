from collections.abc import Callable
from typing import Any

from typing_extensions import Buffer

from cdp_runtime.program import Program

class Exported:
    address: int

class Codec:
    def __init__(
        self,
        program: Program,
        schema: Any,
        max_depth: int,
        max_message_bytes: int,
        max_columns: int,
        registry_indexes: list[bytes],
    ) -> None: ...
    def decode(
        self, payloads: Any, stop_at_bad: bool
    ) -> tuple[list[Exported], list[tuple[int, int, str]]]: ...
    def encode(self, batch: Any) -> Exported: ...

class Block(Buffer):
    def __init__(self, size: int) -> None: ...

def limit_idle_memory(bytes: int) -> None: ...
def total_bytes(payloads: Any) -> int: ...
def crc32c(data: Buffer, before: int = 0) -> int: ...
def join_payloads(payloads: Any, before: int) -> tuple[Block, int]: ...
def split_views(data: Buffer, max_message_bytes: int) -> tuple[Block, int, str]: ...

class ParquetLayout:
    def __init__(
        self,
        schema: Any,
        encoded: bytes,
        leaves: list[tuple[str, int, int, int, int]],
        codec: int,
        has_fast: bool,
        compress: Callable[[int, int, bool], Buffer],
        sort_by: list[int],
        bloom_filters: list[int],
        threads: int,
        ahead: int,
    ) -> None: ...
    def end(self) -> None: ...

class ParquetFile:
    is_settled: bool
    rows: int
    is_full: bool
    held: int
    size: int
    def __init__(self, layout: ParquetLayout) -> None: ...
    def append(self, batch: Any, size: int) -> None: ...
    def end_row_group(self) -> None: ...
    def settle(self) -> None: ...
    def finish(self, metadata: list[tuple[str, bytes]], created_by: str) -> None: ...
    def take(self, about: int) -> bytes: ...
