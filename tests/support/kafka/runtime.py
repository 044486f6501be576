"""How the tests run Kafka: in Docker if it runs, else in Java with the jars that Maven resolves for pom.xml."""

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

# A JVM that starts fast.
SMALL = ["-Xmx256m", "-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]
LOGGING = [
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
]


class NoKafkaError(Exception):
    """No broker can be started here; the message gives the reason in one line."""


class Runtime(Protocol):
    """Runs Java programs with Kafka's classes."""

    def start(self, *arguments: str, folder: Path, log: str) -> Process:
        """Start `java ARGUMENTS`; the program may use `folder` and logs to the file `log` in it."""

    def call(self, *arguments: str, folder: Path, tool: str = "java") -> None:
        """Run a tool of Java and wait for its end.

        Raises:
            NoKafkaError: it failed.
        """


class Process:
    """A process in its own session, and a guard process that kills it if we die without doing so."""

    def __init__(self, command: Sequence[str], log: Path):
        with log.open("ab") as output:
            self.popen = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )  # in its own session, so that a Ctrl-C in the terminal reaches only pytest
        self.paused = False
        # The guard's `cat` ends when its standard input closes: when we die, in whatever way.
        script = f"cat; {' '.join(self.killer())}"
        self.guard = subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, start_new_session=True)

    @property
    def running(self) -> bool:
        return self.popen.poll() is None and not self.paused

    def killer(self) -> list[str]:
        """The command that kills the process."""
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
        self._clean_up()

    def end(self) -> None:
        """SIGTERM, and SIGKILL if it still runs after 20 s."""
        self.resume()
        self.send(signal.SIGTERM)
        try:
            self.popen.wait(20)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
        self._clean_up()

    def _clean_up(self) -> None:
        self.popen.wait()
        self.guard.kill()  # before its input closes: else it might kill a new process with the same id
        self.guard.wait()
        if self.guard.stdin:
            self.guard.stdin.close()


class Jars:
    """Java on this machine, with the jars of a folder."""

    def __init__(self, folder: Path):
        self.java = ["java", "-cp", f"{folder}/*", *SMALL, *LOGGING]

    def start(self, *arguments: str, folder: Path, log: str) -> Process:
        return Process([*self.java, *arguments], folder / log)

    def call(self, *arguments: str, folder: Path, tool: str = "java") -> None:
        run([*(self.java if tool == "java" else [tool]), *arguments], 60)


class Container(Process):
    """A process in a container; signals go to the container, since `docker run` itself would just end."""

    def __init__(self, name: str, command: Sequence[str], log: Path):
        self.name = name
        super().__init__(command, log)

    def killer(self) -> list[str]:
        return ["docker", "rm", "-f", self.name]

    def send(self, number: signal.Signals) -> None:
        ask = {signal.SIGSTOP: ["pause"], signal.SIGCONT: ["unpause"]}
        run(["docker", *ask.get(number, ["kill", "--signal", number.name]), self.name], 30)


class Docker:
    """Kafka's official image, on the network of this machine."""

    def start(self, *arguments: str, folder: Path, log: str) -> Process:
        name = f"posestream-test-{uuid.uuid4().hex[:8]}"
        return Container(name, self._command("java", folder, *arguments, name=name), folder / log)

    def call(self, *arguments: str, folder: Path, tool: str = "java") -> None:
        run(self._command(tool, folder, *arguments, name=f"posestream-test-{uuid.uuid4().hex[:8]}"), 60)

    def _command(self, tool: str, folder: Path, *arguments: str, name: str) -> list[str]:
        limits = ["--rm", "--name", name, "--network", "host", "--user", f"{os.getuid()}:{os.getgid()}"]
        java = ["-cp", "/opt/kafka/libs/*", *SMALL] if tool == "java" else []
        mount = ["-v", f"{folder}:{folder}", "--entrypoint", tool]
        return ["docker", "run", *limits, *mount, IMAGE, *java, *arguments]


def runtime() -> Runtime:
    """Docker if it runs, else Java with Maven's jars.

    Raises:
        NoKafkaError: there is neither.
    """
    found = _runtime_or_reason()
    if isinstance(found, str):
        raise NoKafkaError(found)
    return found


@functools.cache  # so that a missing runtime costs its time only once
def _runtime_or_reason() -> Runtime | str:
    if shutil.which("docker"):
        try:
            run(["docker", "info"], 10)
            run(["docker", "pull", "-q", IMAGE], FETCH_S)
            return Docker()
        except NoKafkaError:
            pass  # often the client is installed without a daemon; try Java
    missing = " and no ".join(tool for tool in ("java", "mvn") if shutil.which(tool) is None)
    if missing:
        return f"no Kafka broker: no Docker that runs, no POSESTREAM_TEST_KAFKA, and no {missing} in PATH"
    try:
        return Jars(jars())
    except NoKafkaError as error:
        return f"no Kafka broker: {error}"


def jars() -> Path:
    """The folder with the jars of pom.xml and their dependencies, in the user's cache; Maven fetches them once.

    Raises:
        NoKafkaError: Maven could not get them.
    """
    cache = user_cache_path("posestream-tests", appauthor=False)  # not in POSESTREAM_HOME, which tests change
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
    """Run a command and wait for its end.

    Raises:
        NoKafkaError: it failed, with the first error in its output, or it did not end in time.
    """
    name = " ".join(part for part in command[:2] if not part.startswith("-"))
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise NoKafkaError(f"{name} did not end in {timeout_s:g} s") from None
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()] or ["nothing"]
        reason = next((line for line in lines if "ERROR" in line or "xception" in line), lines[-1])
        raise NoKafkaError(f"{name} failed: {reason.strip()[:300]}")
