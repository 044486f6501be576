"""The example operator in docs/operators, imported as posestream imports a user's own operator."""

from __future__ import annotations

import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "operators"

sys.path.insert(0, str(EXAMPLE))
try:
    import blur_heads
finally:
    sys.path.remove(str(EXAMPLE))

__all__ = ["EXAMPLE", "blur_heads"]
