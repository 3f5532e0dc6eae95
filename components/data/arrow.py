"""pyarrow.compute for a type checker: it makes its functions at import, so that none of them can be seen."""

from __future__ import annotations

from typing import Any

import pyarrow.compute

pc: Any = pyarrow.compute
