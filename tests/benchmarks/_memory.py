"""The most memory that the kernel saw a process have."""

from __future__ import annotations

import re
from pathlib import Path


def mark(process: int | str = "self") -> int:
    """Bytes, exact; 0 of one that ends just now."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
