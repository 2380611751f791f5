"""The checksums of the core, beside those of others."""

from __future__ import annotations

import random

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_runtime._native import crc32c


@given(st.lists(st.binary(max_size=70)))
def test_of_bytes_in_pieces_it_is_that_of_all_together(parts: list[bytes]) -> None:
    checksum = 0
    for part in parts:
        checksum = crc32c(memoryview(part), checksum)
    assert checksum == crc32c(b"".join(parts)) == google_crc32c.value(b"".join(parts))


@pytest.mark.parametrize("size", [1024, 3071, 3072, 3073, 3080, 6144, 9215, 9216, 100_003])
def test_of_many_bytes_it_is_what_others_say(size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert crc32c(data) == google_crc32c.value(data)
    assert crc32c(data, 0x12345678) == google_crc32c.extend(0x12345678, data)
