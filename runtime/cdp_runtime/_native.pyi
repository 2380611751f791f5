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

def limit_idle_memory(bytes: int) -> None: ...
def split_views(data: Buffer, max_message_bytes: int) -> tuple[bytes, int, str]: ...
