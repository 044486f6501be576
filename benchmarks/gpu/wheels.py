"""Fill a folder with the wheels that `make test-gpu` and `make bench-gpu` need, so that they need no network.

    python benchmarks/gpu/wheels.py OUT [--part-mb 60] [--arch sm_90] [--python 3.12] [--without NAME,NAME]
    python benchmarks/gpu/wheels.py OUT --join

Run the first command on a machine that reaches the registries, with pip and mvn (Java 8 or newer). It
downloads the packages that posestream and its tests need on Linux x86-64, builds posestream's own wheel, and
gets TensorRT for the GPUs of one architecture: NVIDIA's bindings by pip, the libraries by Maven (see
packing/tensorrt_wheel.py), and TensorRT for RTX. Files larger than --part-mb are split; `make` on the GPU
machine joins them, and so does --join.

--without names the packages that the GPU machine has already, by default PyTorch and its dependencies. If
something cannot be downloaded, the command says so and goes on without it.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packing import split_files, tensorrt_wheel

ROOT = Path(__file__).resolve().parents[2]
POM = Path(__file__).parent / "packing" / "pom.xml"
MB = 10**6
INSTALLED = (
    "torch", "triton", "numpy", "onnxruntime", "opencv-python-headless", "msgpack", "cuda-bindings",
    "cuda-pathfinder", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "fsspec", "setuptools",
)  # fmt: skip
TESTS = ("pytest", "pytest-timeout", "hypothesis", "nvtx", "psutil")
EXPORT = ("onnx", "onnxscript", "onnxslim", "safetensors")
GPU = ("nvidia-ml-py", "onnxruntime-gpu")
RTX = ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu13-libs", "tensorrt-rtx-cu13")
GLIBC = range(39, 4, -1)  # manylinux_2_39 … 2_5: pip takes tags literally


class UnavailableError(Exception):
    """Something cannot be downloaded or built here; the message names it and the reason in one line."""


def main() -> int:
    summary, _, more = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="the folder")
    parser.add_argument("--join", action="store_true", help="only join the split files")
    parser.add_argument("--part-mb", type=int, default=60, help="split larger files; default 60")
    parser.add_argument("--arch", default="sm_90", help="architecture of the GPU; default sm_90 (H100, H200)")
    parser.add_argument("--python", default="3.12", help="Python version of the GPU machine; default 3.12")
    parser.add_argument(
        "--without", default=",".join(INSTALLED), help=f"packages to leave out; default {','.join(INSTALLED)}"
    )
    given = parser.parse_args()
    try:
        if given.join:
            for path in split_files.join(given.out, given.out):
                print(path)
            return 0
        return build(given.out, given)
    except (split_files.PartsError, UnavailableError, tensorrt_wheel.TensorrtWheelError) as error:
        raise SystemExit(f"wheels.py: {error}") from None


def build(out: Path, given: argparse.Namespace) -> int:
    """Fill the folder; returns 1 if something is missing, otherwise 0."""
    out.mkdir(parents=True, exist_ok=True)
    without = {normal(name) for name in given.without.split(",") if name}
    wanted = [name for name in dependencies() if normal(re.split(r"[<>=!~\[ ;]", name)[0]) not in without]
    steps = {
        "posestream": lambda: own_wheel(out),
        "its dependencies": lambda: download(out, [*wanted, *TESTS, *EXPORT], given.python),
    }
    if normal(tensorrt_wheel.NAME) not in without:
        steps["TensorRT"] = lambda: tensorrt(out, given.arch, given.python)
    for name in (*GPU, *RTX):
        if normal(name) not in without:
            steps[name] = lambda name=name: download(out, [name], given.python)
    failed = 0
    for name, step in steps.items():
        print(f"{name} …", flush=True)
        try:
            step()
        except (UnavailableError, tensorrt_wheel.TensorrtWheelError) as error:
            failed += 1
            print(f"  left out: {error}", flush=True)
    remove(out, without)
    for name in split_files.split(out, given.part_mb * MB):
        print(f"split {name}")
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"{out}: {len(list(out.iterdir()))} files, {size / MB:.0f} MB")
    return 1 if failed else 0


def dependencies() -> list[str]:
    """The dependencies in posestream's pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return list(project["dependencies"])


def own_wheel(out: Path) -> None:
    """Build the wheel of this checkout."""
    run([*pip("wheel"), "--no-deps", "--wheel-dir", str(out), str(ROOT)])


def download(out: Path, names: list[str], python: str, *, dependencies: bool = True) -> None:
    """Download packages and their dependencies for the GPU machine; a pure one without a wheel is built."""
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in GLIBC]
    platforms += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]
    digits = python.replace(".", "")
    target = ["--only-binary", ":all:", "--implementation", "cp", "--python-version", python]
    target += [f"--abi={abi}" for abi in (f"cp{digits}", "abi3", "none")]
    target += [f"--platform={platform}" for platform in platforms]
    target += [] if dependencies else ["--no-deps"]
    try:
        run([*pip("download"), "--dest", str(out), *target, *names])
    except UnavailableError:
        if len(names) > 1:
            raise
        with tempfile.TemporaryDirectory() as folder:
            run([*pip("wheel"), "--no-deps", "--wheel-dir", folder, *names])
            for wheel in Path(folder).glob("*-any.whl"):
                (out / wheel.name).write_bytes(wheel.read_bytes())


def tensorrt(out: Path, arch: str, python: str) -> None:
    """Download the bindings, and make a wheel of the libraries."""
    download(out, [tensorrt_wheel.BINDINGS], python)
    with tempfile.TemporaryDirectory(dir=out) as folder:
        copy = ["dependency:copy-dependencies", "-DexcludeTransitive=true", f"-DoutputDirectory={folder}"]
        run(["mvn", "-q", "-B", "-f", str(POM), *copy])
        (jar,) = Path(folder).glob("*.jar")
        made = tensorrt_wheel.make(jar, out, arch)
    for name, size in made.libraries.items():
        print(f"  {name}: {size / MB:.0f} MB")
    print(f"  {made.path.name}: {made.path.stat().st_size / MB:.0f} MB")


def remove(out: Path, without: set[str]) -> None:
    """Remove wheels of packages that the GPU machine has; pip downloads them as dependencies."""
    for wheel in out.glob("*.whl"):
        if normal(wheel.name.partition("-")[0]) in without:
            wheel.unlink()


def normal(name: str) -> str:
    """A package's name in the form in which registries compare names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pip(command: str) -> list[str]:
    return [sys.executable, "-m", "pip", command, "--quiet", "--disable-pip-version-check"]


def run(command: list[str]) -> None:
    """Run a command to its end.

    Raises:
        UnavailableError: the program is missing, or it failed; with the first line of its error.
    """
    shown = " ".join(Path(word).name for word in command[:4] if not word.startswith("-"))
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UnavailableError(f"{command[0]} is not in PATH; install it (mvn: Maven, with Java)") from None
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()] or ["no output"]
        first = next((line for line in lines if "ERROR" in line), lines[-1])
        raise UnavailableError(f"{shown}: {first.strip()[:300]}")


if __name__ == "__main__":
    sys.exit(main())
