from collections.abc import Callable
from typing import Any

from typing_extensions import Buffer

from cdp_runtime.program import Program

class Exported:
    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]: ...

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

class ParquetPage:
    address: int
    size: int
    is_fast: bool
    def store(self, compressed: Any) -> None: ...

class ParquetLayout:
    def __init__(
        self,
        schema: Any,
        encoded: bytes,
        leaves: list[tuple[str, int, int, int, int]],
        codec: int,
        sort_by: list[int],
        bloom_filters: list[int],
        threads: int,
        sizer: Callable[[int, int, bool], int],
    ) -> None: ...

class ParquetFile:
    rows: int
    is_full: bool
    held: int
    size: int
    def __init__(self, layout: ParquetLayout) -> None: ...
    def append(self, batch: Any) -> None: ...
    def take_pages(self) -> list[ParquetPage]: ...
    def end_row_group(self) -> None: ...
    def write_row_group(self) -> None: ...
    def finish(self, metadata: list[tuple[str, bytes]], created_by: str) -> None: ...
    def take(self, about: int) -> bytes: ...
