"""The schema of a table's messages as it goes into footers, so that a file alone can be understood.

The key `cdpgen.descriptor` of a footer is base64 of a serialized `google.protobuf.FileDescriptorSet`: the file
of the message and all that it imports, each behind what it needs. `_raw` and dead letters can be decoded by
it with any protobuf library when the `.proto` files are long gone.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from google.protobuf.message import Message

__all__ = ["KEY", "descriptor_of"]

KEY: Final = "cdpgen.descriptor"
"""The key of footers."""


def descriptor_of(message_type: Callable[[], type[Message]]) -> str | None:
    """The value of the key for messages of a type.

    Args:
        message_type: gives the type, and imports it for that.

    Returns:
        The value; None where this process knows another version of the `.proto` files already, because
        protobuf has room for one only.
    """
    from google.protobuf import descriptor_pb2

    try:
        file = message_type().DESCRIPTOR.file
    except TypeError:
        return None
    found = descriptor_pb2.FileDescriptorSet()
    seen: set[str] = set()

    def add(file: Any) -> None:
        if file.name in seen:
            return
        seen.add(file.name)
        for one in file.dependencies:
            add(one)
        file.CopyToProto(found.file.add())

    add(file)
    return base64.b64encode(found.SerializeToString(deterministic=True)).decode()
