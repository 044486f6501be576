"""TensorRT on a GPU machine without a network: its libraries travel in parts; then plans are measured.

    python benchmarks/gpu/trt.py pack FOLDER [--part-mb 58] [--arch sm_90] [--python 3.12]
    python benchmarks/gpu/trt.py join FOLDER/part-00 [--into DIR]
    python benchmarks/gpu/trt.py run [--into DIR] [--carried FOLDER] [--out FOLDER] [--minutes 8] [--dry-run]

`pack` needs a network, pip and mvn. It fills FOLDER with part-00, part-01 …, each of at most --part-mb MiB:
NVIDIA's bindings, TensorRT's libraries from Maven in a wheel, and the package that exports need. On the GPU
machine, `join` each part, one after another; it says what is still missing. Then `run` installs all of it,
exports both models with random weights, builds both plans, and measures and shows what bench.py does.
--carried is the folder that carry.py has filled. Exit code 1 if a part is missing or fails.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import first
import wheels
from packing import carried, split_files, tensorrt_wheel

MIB = 2**20
INTO = Path(tempfile.gettempdir(), "posestream-trt")
EXPORT = "onnxslim"  # the one package for exports that machines with PyTorch and ONNX lack
PLANS, STREAMS, CROPS = "TensorRT plans", "streams, TensorRT", "crops alone, TensorRT"
PARTS = (PLANS, STREAMS, CROPS)


def main() -> int:
    summary, _, more = (__doc__ or "").partition("\n")
    if sys.argv[1:2] == ["run"]:
        return run()
    parser = argparse.ArgumentParser(
        description=summary, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="fill a folder with the parts")
    packing.add_argument("folder", type=Path)
    packing.add_argument("--part-mb", type=float, default=58.0, help="most MiB of a part; default 58")
    packing.add_argument("--arch", default="sm_90", help="architecture of the GPU; default sm_90")
    packing.add_argument("--python", default="3.12", help="Python version there; default 3.12")
    joining = commands.add_parser("join", help="add a part on the GPU machine")
    joining.add_argument("part", type=Path)
    joining.add_argument("--into", type=Path, default=INTO, metavar="DIR", help=f"default {INTO}")
    commands.add_parser("run", help="install, build both plans, and measure them")
    given = parser.parse_args()
    try:
        if given.command == "pack":
            return pack(given.folder, round(given.part_mb * MIB), given.arch, given.python)
        return join(given.part, given.into)
    except (OSError, wheels.UnavailableError, tensorrt_wheel.TensorrtWheelError) as error:
        raise SystemExit(f"trt.py: {error}") from None


def pack(folder: Path, part_bytes: int, arch: str, python: str) -> int:
    """Download and build the wheels, and distribute them over parts.

    Raises:
        UnavailableError, TensorrtWheelError: something cannot be downloaded or built.
        OSError: the folder exists, or cannot be written.
    """
    folder.mkdir(parents=True)
    work = folder / "wheels"
    work.mkdir()
    start = time.monotonic()
    wheels.tensorrt(work, arch, python)
    wheels.download(work, [EXPORT], python, dependencies=False)
    print(f"{time.monotonic() - start:.0f} s  downloaded, and the wheel built", flush=True)
    start = time.monotonic()
    for part in distribute(work, folder, part_bytes):
        files = sorted(part.iterdir())
        size = sum(file.stat().st_size for file in files)
        print(f"  {size / MIB:5.1f} MiB  {part}: {len(files)} files")
    print(f"{time.monotonic() - start:.0f} s  split")
    return 0


def distribute(work: Path, folder: Path, part_bytes: int) -> list[Path]:
    """Move the files of `work` to folders part-00, part-01 … of at most `part_bytes` each; split large ones.

    The first part has the list of all files.
    """
    split_files.split(work, part_bytes - MIB)  # room for the list
    names = sorted(
        (path.name for path in work.iterdir()), key=lambda name: (name != split_files.MANIFEST, name)
    )
    parts: list[list[str]] = []
    left = 0
    for name in names:
        size = (work / name).stat().st_size
        if size > left:
            parts.append([])
            left = part_bytes
        parts[-1].append(name)
        left -= size
    made = [folder / f"part-{number:02}" for number in range(len(parts))]
    for part, inside in zip(made, parts, strict=True):
        part.mkdir()
        for name in inside:
            (work / name).rename(part / name)
    work.rmdir()
    return made


def join(part: Path, into: Path) -> int:
    """Copy a part's files to where the others are, and say what is still missing.

    Raises:
        OSError: there is no such part, or no room.
    """
    into.mkdir(parents=True, exist_ok=True)
    for path in part.iterdir():
        shutil.copyfile(path, into / path.name)
    missing = missing_files(into)
    print(f"{part.name} is in {into}; " + (f"missing: {', '.join(missing)}" if missing else "complete"))
    return 0


def missing_files(into: Path) -> list[str]:
    """The names of parts of split files that were not joined yet."""
    manifest = into / split_files.MANIFEST
    if not manifest.is_file():
        return [split_files.MANIFEST]
    entries = json.loads(manifest.read_text(encoding="utf-8")).values()
    return [name for entry in entries for name in entry["parts"] if not (into / name).is_file()]


def install(into: Path) -> None:
    """Install the joined wheels beside the machine's packages; this process and later ones import them.

    Raises:
        PartsError: parts are missing or damaged.
        CarriedError: pip refuses a wheel.
    """
    site = into / "site"
    if not site.is_dir():
        files = [*sorted(into.glob("*.whl")), *split_files.join(into, into / "joined")]
        if not files:
            raise split_files.PartsError(f"{into} is empty; join the parts first: trt.py join FOLDER/part-00")
        carried.install_wheels(files, site)
    carried.import_from(site)


def run() -> int:
    """Build both plans and measure them, as bench.py does."""
    given = first.started(
        __doc__ or "", minutes=8.0, words=sys.argv[2:],
        options={"--into": {"type": Path, "default": INTO, "metavar": "DIR", "help": f"default {INTO}"}},
    )  # fmt: skip
    start = time.monotonic()
    if not given.dry_run:
        try:
            install(given.into)
        except (split_files.PartsError, carried.CarriedError) as error:
            raise SystemExit(f"trt.py: {error}") from None
    installed_s = time.monotonic() - start
    import bench
    from measuring.isolation import Deadline
    from measuring.parts import FAILED, NOT_RUN, OK, Report
    from measuring.tables import show

    report = Report("trt", given, dry_run=given.dry_run, installed_s=round(installed_s, 1))
    setting = bench.setting_of(argparse.Namespace(
        dry_run=given.dry_run, streams=None, batch=None, persons=1, seconds=None,
        detector=bench.DETECTOR, pose=bench.POSE))  # fmt: skip
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        setting.clip = first.place_of(given, Path(folder)).long_clip
        rows, _ = bench.measure(setting, Deadline(given.minutes), folder)
    seconds = time.monotonic() - start
    backend = next((row["backend"] for row in rows if row["kind"] == "backend"), "")
    by_kind = {PLANS: ["plan"], STREAMS: ["streams", "paced"], CROPS: ["alone"]}
    for name, kinds in by_kind.items():
        found = [row for row in rows if row["kind"] in kinds]
        why = next((row["why"] for row in found if "why" in row), "")
        ran = backend == "tensorrt" and any("why" not in row for row in found)
        state = OK if ran else NOT_RUN if given.dry_run else FAILED
        report.add(name, state, "" if ran else why or f"ran with {backend or 'nothing'}", found, seconds)
    show(rows, setting.size)
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
