"""The modules of the benchmark are scripts in one folder, not a package, so the folder goes on the search path."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path += [str(ROOT / "benchmarks" / "gpu"), str(ROOT / "benchmarks")]
