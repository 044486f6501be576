"""The benchmark's modules are scripts in a folder, not a package: put the folder on the search path."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path += [str(ROOT / "benchmarks" / "gpu"), str(ROOT / "benchmarks")]
