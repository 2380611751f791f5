"""What the system says of this process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

STATM: Final = Path("/proc/self/statm")
"""Where resident memory is read from; Linux alone has it."""


def resident() -> int:
    """Resident memory, bytes."""
    return int(STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
