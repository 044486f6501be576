"""A real Apache Kafka broker (KRaft) for tests: started, killed, paused and restarted like any process.

    with Broker(folder) as broker:
        broker.create_topic("poses", partitions=4)
        producer = KafkaProducer(bootstrap_servers=broker.bootstrap)

It runs in a container where Docker runs, else from the jars that Maven resolves for pom.xml (fetched once, kept in
the user's cache). All it writes is below its folder; it does not outlive the process that started it.

To try things out, `python -m tests.support.kafka.broker FOLDER` runs one on localhost:9092 until Ctrl-C.
"""

from __future__ import annotations

import random
import socket
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from operators.kafka.client import BrokerError, connect
from operators.kafka.connection import Connection
from tests.support.kafka.runtime import NoKafkaError, Process, runtime

CLUSTER_ID = "cG9zZXN0cmVhbS10ZXN0cw"
USERS = {"admin": "admin-secret", "worker": "worker-secret"}  # worker may do nothing until it is given rights
STORE_PASSWORD = "posestream"  # of the key that is made for the test
READY_S = 100  # a start takes some seconds, more where tests share two processors

LISTENERS = ("PLAINTEXT", "CONTROLLER", "SSL", "SASL_PLAINTEXT", "SASL_SSL")


class Broker:
    """One node, of its own or of a `Cluster`. `secure` adds listeners for TLS and for passwords, and rights."""

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
        self.ca_file = self.folder / "broker.pem"  # the certificate: what a client trusts
        self._process: Process | None = None

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def bootstrap(self) -> str:
        """HOST:PORT without encryption or password; who comes this way may do everything."""
        return self.address("PLAINTEXT")

    def address(self, listener: str) -> str:
        """HOST:PORT of a listener: PLAINTEXT, or with `secure` SSL, SASL_PLAINTEXT, SASL_SSL."""
        return f"localhost:{self.ports[listener]}"

    @property
    def port(self) -> int:
        return self.ports["PLAINTEXT"]

    @property
    def running(self) -> bool:
        """It has been started, and neither ended nor paused since."""
        return self._process is not None and self._process.running

    @property
    def log(self) -> str:
        """What the broker has written so far."""
        return (self.folder / "broker.log").read_text(errors="replace")

    def start(self, *, wait: bool = True) -> Broker:
        """Start it, on the same ports and with the data of before; returns when it serves clients."""
        if not (self.folder / "server.properties").exists():
            self._prepare()
        settings = str(self.folder / "server.properties")
        self._process = runtime().start("kafka.Kafka", settings, folder=self.folder, log="broker.log")
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, timeout_s: float = READY_S) -> None:
        """Wait until it answers clients (which it does only once its controller has taken it in)."""
        deadline = time.monotonic() + timeout_s
        while self._running().running:
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
        """End it in order (SIGTERM), or by force if that takes long."""
        if self._process is not None:
            self._process.end()
            self._process = None

    def kill(self) -> None:
        """SIGKILL: nothing is flushed, nobody is told."""
        self._running().kill()
        self._process = None

    def restart(self) -> Broker:
        """Start it again, after `stop` or `kill`, or end and start it."""
        self.stop()
        return self.start()

    def pause(self) -> None:
        """SIGSTOP: its ports stay open and nothing is answered."""
        self._running().pause()

    def resume(self) -> None:
        """SIGCONT, after `pause`."""
        self._running().resume()

    def ensure_running(self, *, wait: bool = True) -> Broker:
        """Whatever a test has done to it: let it run again."""
        if self._process is not None:
            self._process.resume()
        if not self.running:
            self.stop()
            self.start(wait=False)
        if wait:
            self.wait_ready()
        return self

    def create_topic(self, name: str, *, partitions: int = 1, replicas: int = 1, **configs: str) -> None:
        """Make a topic and wait until it has leaders (the broker makes none by itself)."""
        create_topic(self.bootstrap, name, partitions=partitions, replicas=replicas, **configs)

    def new_topic(self, *, partitions: int = 1) -> str:
        """Make a topic with a name of its own, and give that."""
        return new_topic(self, partitions)

    def _running(self) -> Process:
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
        """A key for localhost that signs itself, and its certificate beside it as PEM."""
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
        open_to = ",".join(f"{name}://127.0.0.1:{self.ports[name]}" for name in listeners)
        told = ",".join(f"{name}://{self.address(name)}" for name in listeners if name != "CONTROLLER")
        copies = min(3, len(self.voters))
        settings: dict[str, object] = {
            "process.roles": "broker,controller",
            "node.id": self.node,
            "controller.quorum.voters": ",".join(f"{n}@127.0.0.1:{port}" for n, port in self.voters.items()),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listeners": open_to,
            "advertised.listeners": told,
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
            "group.min.session.timeout.ms": 1000,  # a dead worker is missed after seconds
            "broker.heartbeat.interval.ms": 500,
            "broker.session.timeout.ms": 3000,  # and so is a dead node
            "log.index.size.max.bytes": 65536,  # allocated beforehand, for each partition
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


class Cluster:
    """Three nodes on loopback: every partition on all of them, acknowledged once two have it."""

    def __init__(self, folder: Path, nodes: int = 3):
        voters = dict(zip(range(1, nodes + 1), free_ports(nodes), strict=True))
        self.nodes = [Broker(Path(folder) / str(node), node=node, voters=voters) for node in voters]

    def __enter__(self) -> Cluster:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def bootstrap(self) -> str:
        return ",".join(node.bootstrap for node in self.nodes)

    def start(self) -> Cluster:
        for node in self.nodes:
            node.start(wait=False)  # none is ready before a majority runs
        for node in self.nodes:
            node.wait_ready()
        return self

    def stop(self) -> None:
        for node in self.nodes:
            if node._process is not None:
                node.kill()  # in order, the last one would wait in vain for a majority

    def ensure_running(self) -> Cluster:
        """Whatever a test has done to the nodes: let them run again."""
        for node in self.nodes:
            node.ensure_running(wait=False)
        for node in self.nodes:
            node.wait_ready()
        return self

    def create_topic(self, name: str, *, partitions: int = 1, replicas: int = 3, **configs: str) -> None:
        """Make a topic and wait until it has leaders."""
        create_topic(self.bootstrap, name, partitions=partitions, replicas=replicas, **configs)

    def new_topic(self, *, partitions: int = 1) -> str:
        """Make a topic with a name of its own, and give that."""
        return new_topic(self, partitions)


class Outside:
    """A broker that somebody else runs: only its address is known."""

    def __init__(self, bootstrap: str):
        self.bootstrap = bootstrap

    def create_topic(self, name: str, *, partitions: int = 1, replicas: int = 1, **configs: str) -> None:
        """Make a topic and wait until it has leaders."""
        create_topic(self.bootstrap, name, partitions=partitions, replicas=replicas, **configs)

    def new_topic(self, *, partitions: int = 1) -> str:
        """Make a topic with a name of its own, and give that."""
        return new_topic(self, partitions)


def create_topic(bootstrap: str, name: str, *, partitions: int, replicas: int = 1, **configs: str) -> None:
    """Make a topic (`configs` with _ for .) and wait until every partition has a leader."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap, bootstrap_timeout_ms=20000)
    try:
        settings = {key.replace("_", "."): value for key, value in configs.items()}
        admin.create_topics([NewTopic(name, partitions, replicas, topic_configs=settings)])
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            found = [part for topic in admin.describe_topics([name]) for part in topic["partitions"]]
            if len(found) == partitions and all(part["leader_id"] >= 0 for part in found):
                return
            time.sleep(0.05)
        raise RuntimeError(f"topic {name} has no leaders after 20 s")
    finally:
        admin.close()


def new_topic(kafka: Broker | Cluster | Outside, partitions: int) -> str:
    name = f"test-{uuid.uuid4().hex[:8]}"
    kafka.create_topic(name, partitions=partitions)
    return name


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on, below those the system gives to outgoing connections.

    A client that tries again and again to reach a broker that is down could otherwise be given the broker's own
    port and connect to itself.
    """
    found: list[int] = []
    for port in random.Random().sample(range(15000, 32000), 500):
        with socket.socket() as trial:
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise NoKafkaError("no free ports between 15000 and 32000 on 127.0.0.1 for a broker")


def main() -> None:
    """One on the usual port, which also makes topics as soon as somebody asks for them."""
    broker = Broker(Path(sys.argv[1]), settings={"auto.create.topics.enable": "true", "num.partitions": 4})
    broker.ports["PLAINTEXT"] = 9092
    with suppress(KeyboardInterrupt), broker:
        print(f"Kafka is on {broker.bootstrap}; Ctrl-C ends it")
        while broker.running:
            time.sleep(1)


if __name__ == "__main__":
    main()
