"""The benchmark's modules are scripts beside one another, not a package."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path += [str(ROOT / "benchmarks" / "gpu"), str(ROOT / "benchmarks")]
