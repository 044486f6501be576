"""The connection to Kafka: its options, its URIs, and what went wrong told in one line, within seconds."""

from __future__ import annotations

import difflib
import logging
import os
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args
from urllib.parse import parse_qs, urlsplit

from pydantic import Field

from operators.kafka.broker_check import why_not
from pipeline.errors import OptionError, SourceError

DEFAULT_BROKERS = "localhost:9092"
PORT = 9092
PASSWORD = "POSESTREAM_KAFKA_PASSWORD"

Security = Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]

# The options of whatever connects to Kafka; what is not given comes from the environment.
BrokersOption = Annotated[
    str | None, Field(description="HOST:PORT, several with commas; else POSESTREAM_KAFKA, localhost:9092")
]
SecurityOption = Annotated[
    Security | None, Field(description="else POSESTREAM_KAFKA_SECURITY, plaintext; the password is read from "
                                       "POSESTREAM_KAFKA_PASSWORD or password_file")
]  # fmt: skip
MechanismOption = Annotated[
    Mechanism | None, Field(description="else POSESTREAM_KAFKA_SASL_MECHANISM, PLAIN")
]
UsernameOption = Annotated[str | None, Field(description="else POSESTREAM_KAFKA_USERNAME")]
PasswordFileOption = Annotated[
    str | None, Field(description="a file that holds the password; else POSESTREAM_KAFKA_PASSWORD_FILE")
]
CaFileOption = Annotated[
    str | None, Field(description="certificates (PEM) to trust; else POSESTREAM_KAFKA_CA_FILE, the system's")
]
CertFileOption = Annotated[
    str | None, Field(description="certificate (PEM) of this client; else POSESTREAM_KAFKA_CERT_FILE")
]
KeyFileOption = Annotated[
    str | None, Field(description="its private key (PEM); else POSESTREAM_KAFKA_KEY_FILE")
]

Client = TypeVar("Client")

# kafka-python logs each attempt of its own, many a second, and at DEBUG what it sends, passwords too.
# Whoever wants that sets the level; we tell the cause, once.
if logging.getLogger("kafka").level == logging.NOTSET:
    logging.getLogger("kafka").setLevel(logging.CRITICAL)


class BrokerError(SourceError):
    """Kafka cannot be used: it is away, refuses us, or lacks the topic; one line says which."""


class Secret(str):
    """A string that shows itself to nobody who prints what holds it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


@dataclass(frozen=True)
class Connection:
    """Where Kafka is and how it is spoken to. The password is read when it is needed and kept nowhere."""

    brokers: str = DEFAULT_BROKERS
    security: Security = "plaintext"
    sasl_mechanism: Mechanism = "PLAIN"
    username: str | None = None
    password_file: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None

    @classmethod
    def of(cls, **options: Any) -> Connection:
        """From options of an operator or a command; those that are None come from the environment.

        Options that say nothing of the connection are left alone.

        Raises:
            OptionError: they cannot work together, or name a file that is not there.
        """
        found = {name: options.get(name) or os.environ.get(variable) for name, variable in VARIABLES.items()}
        connection = cls(**{name: value for name, value in found.items() if value})  # type: ignore[arg-type]
        connection._check()
        return connection

    @property
    def encrypted(self) -> bool:
        """It speaks TLS."""
        return self.security.endswith("ssl")

    @property
    def asks_password(self) -> bool:
        """It logs in (SASL)."""
        return self.security.startswith("sasl")

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """The brokers, as host and port."""
        return [address(broker) for broker in self.brokers.split(",")]

    @cached_property
    def tls(self) -> ssl.SSLContext | None:
        """What TLS trusts and shows; None without TLS.

        Raises:
            OptionError: a file does not hold what it should.
        """
        if not self.encrypted:
            return None
        option, path = "ca_file", self.ca_file
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file:
                option, path = "cert_file", self.cert_file
                context.load_cert_chain(self.cert_file, self.key_file)
        except (ssl.SSLError, OSError) as error:
            reason = getattr(error, "reason", None) or error.strerror
            raise OptionError(option, f"{option} {path}: not usable as PEM: {reason}") from None
        return context

    def client_options(self) -> dict[str, Any]:
        """The keywords for a consumer, producer or admin client of kafka-python.

        Raises:
            OptionError: there is no password, or a file cannot be read.
        """
        options: dict[str, Any] = {
            "bootstrap_servers": [f"{host}:{port}" for host, port in self.addresses],
            "client_id": "posestream",
            "security_protocol": self.security.upper(),
        }
        if self.encrypted:
            options["ssl_context"] = self.tls
        if self.asks_password:
            options["sasl_mechanism"] = self.sasl_mechanism
            options["sasl_plain_username"] = self.username
            options["sasl_plain_password"] = self._password()
        return options

    def login(self) -> Any:
        """A new login of kafka-python's, by the user and the mechanism; None without a password."""
        from kafka.net.sasl import get_sasl_mechanism

        return (
            get_sasl_mechanism(self.sasl_mechanism)(**self.client_options()) if self.asks_password else None
        )

    def _password(self) -> Secret:
        if self.password_file is None:
            given = os.environ.get(PASSWORD)
            if not given:
                raise OptionError("username", f"no password for user {self.username}: set {PASSWORD} "
                                              "in the environment, or name a password_file")  # fmt: skip
            return Secret(given)
        try:
            return Secret(Path(self.password_file).read_text(encoding="utf-8").rstrip("\r\n"))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no text"
            raise OptionError("password_file", f"password_file {self.password_file}: {reason}") from None

    def _check(self) -> None:
        if self.security not in get_args(Security):
            raise OptionError(
                "security", f"security {self.security!r}: expected {', '.join(get_args(Security))}"
            )
        if self.sasl_mechanism not in get_args(Mechanism):
            valid = ", ".join(get_args(Mechanism))
            raise OptionError("sasl_mechanism", f"sasl_mechanism {self.sasl_mechanism!r}: expected {valid}")
        if self.asks_password and not self.username:
            raise OptionError("username", f"security {self.security} needs a username")
        tls = "ssl or sasl_ssl"
        for option, wanted, there in (
            ("username", "sasl_plaintext or sasl_ssl", self.asks_password),
            ("password_file", "sasl_plaintext or sasl_ssl", self.asks_password),
            ("ca_file", tls, self.encrypted),
            ("cert_file", tls, self.encrypted),
            ("key_file", tls, self.encrypted),
        ):
            value = getattr(self, option)
            if value and not there:
                raise OptionError(option, f"{option} has no use with security {self.security}; set {wanted}")
            if value and option.endswith("file") and not Path(value).is_file():
                raise OptionError(option, f"{option} {value}: no such file")
        if self.key_file and not self.cert_file:
            raise OptionError("key_file", "key_file needs the certificate it belongs to; set cert_file")
        try:
            _ = self.addresses
        except SourceError as error:
            raise OptionError("brokers", str(error)) from None


# Where an option comes from that was not given.
VARIABLES = {
    "brokers": "POSESTREAM_KAFKA",
    **{
        name: f"POSESTREAM_KAFKA_{name.upper()}"
        for name in Connection.__dataclass_fields__
        if name != "brokers"
    },
}


class KafkaUri(NamedTuple):
    """`kafka://HOST:PORT[,HOST:PORT…]/TOPIC[?group=NAME]`."""

    brokers: str | None  # None: as options or the environment say
    topic: str
    group: str | None


def parse_kafka_uri(uri: str) -> KafkaUri:
    """The parts of a `kafka://` URI.

    Raises:
        SourceError: it is none, or holds a password, which belongs into the environment.
    """
    form = "expected kafka://HOST:PORT/TOPIC?group=NAME"
    parts = urlsplit(uri)
    if "@" in parts.netloc:  # not shown: it may be a password
        place = f"kafka://…@{parts.netloc.rpartition('@')[2]}{parts.path}"
        raise SourceError(
            f"{place}: no user or password in the address; set POSESTREAM_KAFKA_USERNAME and {PASSWORD}"
        )
    topic = parts.path.strip("/")
    if parts.scheme != "kafka" or not topic or "/" in topic:
        raise SourceError(f"{uri}: {form}")
    given = parse_qs(parts.query, keep_blank_values=True)
    if unknown := set(given) - {"group"}:
        raise SourceError(f"{uri}: unknown {', '.join(sorted(unknown))}; {form}")
    for broker in filter(None, parts.netloc.split(",")):
        address(broker)
    return KafkaUri(parts.netloc or None, topic, given.get("group", [""])[0] or None)


def address(broker: str) -> tuple[str, int]:
    """Host and port of `HOST`, `HOST:PORT` or `[IPv6]:PORT`.

    Raises:
        SourceError: it is none.
    """
    try:
        parts = urlsplit(f"//{broker.strip()}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.username or parts.path:
        raise SourceError(
            f"broker {broker.rpartition('@')[2]!r}: expected HOST:PORT, as in {DEFAULT_BROKERS}"
        )
    return host, port or PORT


def connect(
    client: type[Client], connection: Connection, *, timeout_s: float = 5.0, **options: Any
) -> Client:
    """A KafkaConsumer, KafkaProducer or KafkaAdminClient that has reached a broker.

    Raises:
        BrokerError: within about `timeout_s`: no broker serves us, and why.
        OptionError: there is no password.
    """
    from kafka.errors import KafkaError
    from kafka.net.compat import KafkaNetClient

    settings = connection.client_options() | options
    if reason := unusable(connection, timeout_s):
        raise BrokerError(reason)
    made: list[KafkaNetClient] = []

    def keep(**configs: Any) -> KafkaNetClient:
        made.append(KafkaNetClient(**configs))
        return made[0]

    try:
        return client(bootstrap_timeout_ms=round(1000 * timeout_s), kafka_client=keep, **settings)  # type: ignore[call-arg]
    except KafkaError as error:
        for inner in made:  # its constructor leaves a thread behind when it fails
            inner.close()
        raise BrokerError(explain(error, connection)) from error


def unusable(connection: Connection, timeout_s: float = 3.0) -> str | None:
    """Why no broker can be spoken to, in one line; None if one answers as it should.

    Raises:
        OptionError: there is no password.
    """
    reasons: dict[str, str] = {}
    for host, port in connection.addresses:
        reason = why_not(
            host,
            port,
            timeout_s / len(connection.addresses),
            tls=connection.tls,
            mechanism=connection.sasl_mechanism if connection.asks_password else "",
            login=connection.login(),
        )
        if reason is None:
            return None
        reasons[f"{host}:{port}"] = reason
    if len(set(reasons.values())) == 1:
        return f"kafka {','.join(reasons)}: {reason}"
    return "kafka " + "; ".join(f"{place}: {reason}" for place, reason in reasons.items())


def explain(error: Exception, connection: Connection, *, topic: str | None = None) -> str:
    """An error of kafka-python in one line: what is wrong and what to do; looks at brokers that are away."""
    from kafka import errors

    at = f"kafka {connection.brokers}"
    who = f"user {connection.username}" if connection.username else "a client without user name"
    match error:
        case errors.TopicAuthorizationFailedError() | errors.GroupAuthorizationFailedError():
            group = isinstance(error, errors.GroupAuthorizationFailedError)
            what = "the consumer group" if group else f"topic {topic}" if topic else "the topic"
            return f"{at}: {who} may not use {what}; have the broker's administrator allow it (kafka-acls)"
        case errors.AuthorizationError() | errors.ClusterAuthorizationFailedError():
            return f"{at}: {who} may not do this; have the broker's administrator allow it (kafka-acls)"
        case errors.UnknownTopicOrPartitionError():
            return f"{at}: there is no topic {topic or 'of this name'}"
        case errors.RetriableError() | errors.SaslAuthenticationFailedError():
            return unusable(connection) or f"{at}: the broker answers, but not in time: {_said(error)}"
    return f"{at}: {_said(error)}"


def missing_topic(connection: Connection, topic: str, topics: Iterable[str]) -> str:
    """The line for a topic that does not exist, with the names most like it."""
    close = difflib.get_close_matches(topic, sorted(topics), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else "make it, or start what publishes to it"
    return f"kafka {connection.brokers}: there is no topic {topic}; {hint}"


def partitions(admin: Any, connection: Connection, topic: str) -> list[int]:
    """The partitions of a topic.

    Raises:
        BrokerError: there is no such topic (with the nearest names), or we may not see it.
    """
    from kafka import errors

    try:
        found = admin.describe_topics([topic])[0]
        if found["error_code"] == errors.UnknownTopicOrPartitionError.errno:
            names = [name for name in admin.list_topics() if not name.startswith("__")]
            raise BrokerError(missing_topic(connection, topic, names))
        if found["error_code"]:
            raise errors.for_code(found["error_code"])()
    except errors.KafkaError as error:
        raise BrokerError(explain(error, connection, topic=topic)) from error
    return sorted(part["partition_index"] for part in found["partitions"])


def _said(error: Exception) -> str:
    said = str(error).splitlines()
    return said[0] if said and said[0] else type(error).__name__
