"""A real Apache Kafka broker (KRaft) for tests: started, killed, paused and restarted like any process.

    with Broker(folder) as broker:
        broker.create_topic("poses", partitions=4)
        producer = KafkaProducer(bootstrap_servers=broker.bootstrap)

It runs in a container if Docker runs, else from the jars that Maven resolves for pom.xml (fetched once, kept in the
user's cache). It writes only below its folder, and does not outlive the process that started it.

To try things out, `python -m tests.support.kafka.broker FOLDER` runs a broker on localhost:9092 until Ctrl-C.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path

from kafka import KafkaAdminClient

from operators.kafka.client import BrokerError, connect
from operators.kafka.connection import Connection
from tests.support.kafka.ports import free_ports
from tests.support.kafka.runtime import Process, runtime
from tests.support.kafka.topics import Topics

CLUSTER_ID = "cG9zZXN0cmVhbS10ZXN0cw"
# `worker` may do nothing until a test gives it rights.
USERS = {"admin": "admin-secret", "worker": "worker-secret"}
STORE_PASSWORD = "posestream"  # of the key store that the test makes
READY_S = 100  # a start takes some seconds, more on a busy machine

LISTENERS = ("PLAINTEXT", "CONTROLLER", "SSL", "SASL_PLAINTEXT", "SASL_SSL")


class Broker(Topics):
    """One node, alone or in a `Cluster`. `secure` adds listeners with TLS and passwords, and access rights."""

    def __init__(
        self,
        folder: Path,
        *,
        secure: bool = False,
        node: int = 1,
        voters: dict[int, int] | None = None,
        settings: dict[str, object] | None = None,
    ):
        self.folder = Path(folder).resolve()
        self.secure = secure
        self.settings = settings or {}
        self.node = node
        chosen = free_ports(len(LISTENERS))
        self.ports = dict(zip(LISTENERS, chosen, strict=True))
        self.voters = voters or {node: self.ports["CONTROLLER"]}
        self.ports["CONTROLLER"] = self.voters[node]
        self.ca_file = self.folder / "broker.pem"  # its certificate, for clients to trust
        self.bootstrap = self.address("PLAINTEXT")  # without encryption or password, and with all rights
        self._process: Process | None = None

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def address(self, listener: str) -> str:
        """HOST:PORT of a listener: PLAINTEXT, and with `secure` SSL, SASL_PLAINTEXT and SASL_SSL."""
        return f"localhost:{self.ports[listener]}"

    @property
    def port(self) -> int:
        return self.ports["PLAINTEXT"]

    @property
    def running(self) -> bool:
        """Whether it has been started, and neither ended nor paused since."""
        return self._process is not None and self._process.running

    @property
    def log(self) -> str:
        """The broker's log so far."""
        return (self.folder / "broker.log").read_text(errors="replace")

    def start(self, *, wait: bool = True) -> Broker:
        """Start it, on the same ports and with its earlier data; with `wait`, return when it serves clients."""
        if not (self.folder / "server.properties").exists():
            self._prepare()
        settings = str(self.folder / "server.properties")
        self._process = runtime().start("kafka.Kafka", settings, folder=self.folder, log="broker.log")
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, timeout_s: float = READY_S) -> None:
        """Wait until it answers clients, which it does once its controller has registered it."""
        deadline = time.monotonic() + timeout_s
        while self._started().running:
            try:
                connect(KafkaAdminClient, Connection(self.bootstrap), timeout_s=2).close()
                return
            except BrokerError as error:
                if time.monotonic() > deadline:
                    self.stop()
                    raise RuntimeError(
                        f"broker {self.node} is not ready: {error}\n{self.log[-3000:]}"
                    ) from None
            time.sleep(0.05)
        raise RuntimeError(f"broker {self.node} ended at once:\n{self.log[-3000:]}")

    def stop(self) -> None:
        """Shut it down in order (SIGTERM), or by force if that takes too long."""
        if self._process is not None:
            self._process.end()
            self._process = None

    def kill(self) -> None:
        """SIGKILL: it flushes nothing and informs nobody."""
        self._started().kill()
        self._process = None

    def kill_if_started(self) -> None:
        """SIGKILL, unless it was never started or has been stopped."""
        if self._process is not None:
            self.kill()

    def restart(self) -> Broker:
        """Stop it if it runs, and start it again."""
        self.stop()
        return self.start()

    def pause(self) -> None:
        """SIGSTOP: its ports stay open, but nothing answers."""
        self._started().pause()

    def resume(self) -> None:
        """SIGCONT, after `pause`."""
        self._started().resume()

    def ensure_running(self, *, wait: bool = True) -> Broker:
        """Let it run again, whatever a test has done to it."""
        if self._process is not None:
            self._process.resume()
        if not self.running:
            self.stop()
            self.start(wait=False)
        if wait:
            self.wait_ready()
        return self

    def _started(self) -> Process:
        if self._process is None:
            raise RuntimeError(f"broker {self.node} was not started")
        return self._process

    def _prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.secure:
            self._make_key()
        draft, final = (self.folder / name for name in ("draft.properties", "server.properties"))
        draft.write_text("".join(f"{key}={value}\n" for key, value in self._settings().items()))
        format_it = ["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(draft)]
        runtime().call(*format_it, folder=self.folder)
        draft.rename(final)

    def _make_key(self) -> None:
        """Make a self-signed key for localhost, and its certificate as PEM."""
        store = [
            "-keystore",
            str(self.folder / "broker.p12"),
            "-storepass",
            STORE_PASSWORD,
            "-alias",
            "broker",
        ]
        key = ["-genkeypair", "-keyalg", "EC", "-dname", "CN=localhost", "-validity", "3650"]
        names = ["-ext", "SAN=dns:localhost,ip:127.0.0.1", "-storetype", "PKCS12"]
        for arguments in ([*key, *names], ["-exportcert", "-rfc", "-file", str(self.ca_file)]):
            runtime().call(*arguments, *store, folder=self.folder, tool="keytool")

    def _settings(self) -> dict[str, object]:
        listeners = LISTENERS if self.secure else LISTENERS[:2]
        bound = ",".join(f"{name}://127.0.0.1:{self.ports[name]}" for name in listeners)
        advertised = ",".join(f"{name}://{self.address(name)}" for name in listeners if name != "CONTROLLER")
        copies = min(3, len(self.voters))
        settings: dict[str, object] = {
            "process.roles": "broker,controller",
            "node.id": self.node,
            "controller.quorum.voters": ",".join(f"{n}@127.0.0.1:{port}" for n, port in self.voters.items()),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listeners": bound,
            "advertised.listeners": advertised,
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,"
            + ",".join(f"{name}:{name}" for name in LISTENERS if name != "CONTROLLER"),
            "log.dirs": self.folder / "data",
            "auto.create.topics.enable": "false",
            "default.replication.factor": copies,
            "min.insync.replicas": max(1, copies - 1),
            "offsets.topic.num.partitions": 4,
            "offsets.topic.replication.factor": copies,
            "transaction.state.log.num.partitions": 4,
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": max(1, copies - 1),
            "share.coordinator.state.topic.num.partitions": 1,
            "share.coordinator.state.topic.replication.factor": copies,
            "share.coordinator.state.topic.min.isr": max(1, copies - 1),
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,  # so that dead workers are noticed within seconds
            "broker.heartbeat.interval.ms": 500,
            "broker.session.timeout.ms": 3000,  # and dead nodes, too
            "log.index.size.max.bytes": 65536,  # allocated in advance for each partition
        }
        if self.secure:
            users = " ".join(f'user_{name}="{password}"' for name, password in USERS.items())
            jaas = f"org.apache.kafka.common.security.plain.PlainLoginModule required {users};"
            settings |= {
                "ssl.keystore.type": "PKCS12",
                "ssl.keystore.location": self.folder / "broker.p12",
                "ssl.keystore.password": STORE_PASSWORD,
                "ssl.key.password": STORE_PASSWORD,
                "sasl.enabled.mechanisms": "PLAIN",
                "listener.name.sasl_plaintext.plain.sasl.jaas.config": jaas,
                "listener.name.sasl_ssl.plain.sasl.jaas.config": jaas,
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:ANONYMOUS;User:admin",
            }
        return settings | self.settings


def main() -> None:
    """Run a broker on the usual port; it creates topics on demand."""
    broker = Broker(Path(sys.argv[1]), settings={"auto.create.topics.enable": "true", "num.partitions": 4})
    broker.ports["PLAINTEXT"] = 9092
    broker.bootstrap = broker.address("PLAINTEXT")
    with suppress(KeyboardInterrupt), broker:
        print(f"Kafka is on {broker.bootstrap}; Ctrl-C ends it")
        while broker.running:
            time.sleep(1)


if __name__ == "__main__":
    main()
