"""What runs the Kafka of the tests: Docker if it runs, else Java with the jars that Maven resolves for pom.xml."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from filelock import FileLock
from platformdirs import user_cache_path

POM = Path(__file__).with_name("pom.xml")
IMAGE = "apache/kafka:4.3.1"  # the release in pom.xml
FETCH_S = 100  # pytest ends a test after 120

# As little work at start as a JVM can have.
SMALL = ["-Xmx256m", "-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]
LOGGING = [
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
]


class NoKafkaError(Exception):
    """No broker can be started here; the message says why, in one line."""


class Runtime(Protocol):
    """A way to run Java programs with Kafka's classes."""

    def start(self, *arguments: str, folder: Path, log: str) -> Process:
        """Start `java ARGUMENTS`, which may use `folder` and writes to the file `log` there."""

    def call(self, *arguments: str, folder: Path, tool: str = "java") -> None:
        """Run a tool of Java to its end.

        Raises:
            NoKafkaError: it failed.
        """


class Process:
    """A process of its own session, and a guard that kills it when this process ends without having done so."""

    def __init__(self, command: Sequence[str], log: Path):
        with log.open("ab") as output:
            self.popen = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )  # of its own session: a Ctrl-C in the terminal is pytest's, not the broker's
        self.paused = False
        # The end of its standard input is our own end, however that came.
        script = f"cat; {' '.join(self.killer())}"
        self.guard = subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, start_new_session=True)

    @property
    def running(self) -> bool:
        return self.popen.poll() is None and not self.paused

    def killer(self) -> list[str]:
        """The command that kills it from outside."""
        return ["kill", "-KILL", str(self.popen.pid)]

    def send(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def pause(self) -> None:
        self.send(signal.SIGSTOP)
        self.paused = True

    def resume(self) -> None:
        if self.paused:
            self.send(signal.SIGCONT)
            self.paused = False

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self._gone()

    def end(self) -> None:
        """SIGTERM, and SIGKILL if that is of no use."""
        self.resume()
        self.send(signal.SIGTERM)
        try:
            self.popen.wait(20)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
        self._gone()

    def _gone(self) -> None:
        self.popen.wait()
        self.guard.kill()  # before its input ends: the number of the dead process may be another's by now
        self.guard.wait()
        if self.guard.stdin:
            self.guard.stdin.close()


class Jars:
    """Java on this machine, with a folder of jars."""

    def __init__(self, folder: Path):
        self.java = ["java", "-cp", f"{folder}/*", *SMALL, *LOGGING]

    def start(self, *arguments: str, folder: Path, log: str) -> Process:
        return Process([*self.java, *arguments], folder / log)

    def call(self, *arguments: str, folder: Path, tool: str = "java") -> None:
        run([*(self.java if tool == "java" else [tool]), *arguments], 60)


class Container(Process):
    """A process in a container: signals to `docker run` would end that command only."""

    def __init__(self, name: str, command: Sequence[str], log: Path):
        self.name = name
        super().__init__(command, log)

    def killer(self) -> list[str]:
        return ["docker", "rm", "-f", self.name]

    def send(self, number: signal.Signals) -> None:
        ask = {signal.SIGSTOP: ["pause"], signal.SIGCONT: ["unpause"]}
        run(["docker", *ask.get(number, ["kill", "--signal", number.name]), self.name], 30)


class Docker:
    """The official image, on the network of this machine."""

    def start(self, *arguments: str, folder: Path, log: str) -> Process:
        name = f"posestream-test-{uuid.uuid4().hex[:8]}"
        return Container(name, self._command("java", folder, *arguments, name=name), folder / log)

    def call(self, *arguments: str, folder: Path, tool: str = "java") -> None:
        run(self._command(tool, folder, *arguments, name=f"posestream-test-{uuid.uuid4().hex[:8]}"), 60)

    def _command(self, tool: str, folder: Path, *arguments: str, name: str) -> list[str]:
        limits = ["--rm", "--name", name, "--network", "host", "--user", f"{os.getuid()}:{os.getgid()}"]
        java = ["-cp", "/opt/kafka/libs/*", *SMALL] if tool == "java" else []
        return [
            "docker",
            "run",
            *limits,
            "-v",
            f"{folder}:{folder}",
            "--entrypoint",
            tool,
            IMAGE,
            *java,
            *arguments,
        ]


def runtime() -> Runtime:
    """Docker if it runs, else Java with Maven's jars.

    Raises:
        NoKafkaError: neither can be had.
    """
    found = _runtime_or_reason()
    if isinstance(found, str):
        raise NoKafkaError(found)
    return found


@functools.cache  # what cannot be had is asked for only once
def _runtime_or_reason() -> Runtime | str:
    if shutil.which("docker"):
        try:
            run(["docker", "info"], 10)
            run(["docker", "pull", "-q", IMAGE], FETCH_S)
            return Docker()
        except NoKafkaError:
            pass  # a client without its daemon is common; Java will do
    missing = " and no ".join(tool for tool in ("java", "mvn") if shutil.which(tool) is None)
    if missing:
        return f"no Kafka broker: no Docker that runs, no POSESTREAM_TEST_KAFKA, and no {missing} in PATH"
    try:
        return Jars(jars())
    except NoKafkaError as error:
        return f"no Kafka broker: {error}"


def jars() -> Path:
    """The folder with the jars of pom.xml and all they need, from the user's cache, once fetched by Maven.

    Raises:
        NoKafkaError: Maven could not get them.
    """
    cache = user_cache_path("posestream-tests", appauthor=False)  # not POSESTREAM_HOME, which tests set
    folder = cache / f"kafka-{hashlib.sha256(POM.read_bytes()).hexdigest()[:12]}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "kafka.lock"):
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=cache) as fresh:
                copy = ["dependency:copy-dependencies", f"-DoutputDirectory={fresh}/jars"]
                run(["mvn", "-q", "-B", "-f", str(POM), *copy], FETCH_S)
                Path(fresh, "jars").rename(folder)
    return folder


def run(command: Sequence[str], timeout_s: float) -> None:
    """Run a command to its end.

    Raises:
        NoKafkaError: it failed, with the last line it said, or did not end in time.
    """
    what = " ".join(part for part in command[:2] if not part.startswith("-"))
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise NoKafkaError(f"{what} did not end in {timeout_s:g} s") from None
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()] or ["nothing"]
        first = next((line for line in said if "ERROR" in line or "xception" in line), said[-1])
        raise NoKafkaError(f"{what} failed: {first.strip()[:300]}")
