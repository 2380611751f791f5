"""The checksums of the core, beside those of others."""

from __future__ import annotations

import google_crc32c
from hypothesis import given
from hypothesis import strategies as st

from cdp_runtime._native import crc32c


@given(st.lists(st.binary(max_size=70)))
def test_of_bytes_in_pieces_it_is_that_of_all_together(parts: list[bytes]) -> None:
    checksum = 0
    for part in parts:
        checksum = crc32c(memoryview(part), checksum)
    assert checksum == crc32c(b"".join(parts)) == google_crc32c.value(b"".join(parts))
