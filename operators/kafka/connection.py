"""How to reach Kafka: brokers, encryption and login, from options or the environment."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from operators.kafka.addresses import DEFAULT_BROKERS, parse_broker
from pipeline.errors import OptionError, SourceError

PASSWORD = "POSESTREAM_KAFKA_PASSWORD"

Security = Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]

# Options shared by all operators that connect to Kafka; one that is not given comes from the environment.
BrokersOption = Annotated[
    str | None, Field(description="HOST:PORT, several with commas; else POSESTREAM_KAFKA or localhost:9092")
]
SecurityOption = Annotated[
    Security | None, Field(description="else POSESTREAM_KAFKA_SECURITY or plaintext; the password is read "
                                       "from POSESTREAM_KAFKA_PASSWORD or password_file")
]  # fmt: skip
MechanismOption = Annotated[
    Mechanism | None, Field(description="else POSESTREAM_KAFKA_SASL_MECHANISM or PLAIN")
]
UsernameOption = Annotated[str | None, Field(description="else POSESTREAM_KAFKA_USERNAME")]
PasswordFileOption = Annotated[
    str | None, Field(description="a file that holds the password; else POSESTREAM_KAFKA_PASSWORD_FILE")
]
CaFileOption = Annotated[
    str | None,
    Field(description="certificates (PEM) to trust; else POSESTREAM_KAFKA_CA_FILE or the system's"),
]
CertFileOption = Annotated[
    str | None, Field(description="certificate (PEM) of this client; else POSESTREAM_KAFKA_CERT_FILE")
]
KeyFileOption = Annotated[
    str | None, Field(description="private key (PEM) of this client; else POSESTREAM_KAFKA_KEY_FILE")
]


class Secret(str):
    """A password: printing an object that holds it shows `***`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


@dataclass(frozen=True)
class Connection:
    """Where the brokers are and how to talk to them. The password is read on use and never stored here."""

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
        """From options of an operator or a command; options that are None come from the environment.

        Options that have nothing to do with the connection are ignored.

        Raises:
            OptionError: two options contradict each other, a value is invalid, or a file does not exist.
        """
        values = {name: options.get(name) or os.environ.get(variable) for name, variable in VARIABLES.items()}
        connection = cls(**{name: value for name, value in values.items() if value})  # type: ignore[arg-type]
        connection._check()
        return connection

    @property
    def encrypted(self) -> bool:
        """Whether the connection uses TLS."""
        return self.security.endswith("ssl")

    @property
    def uses_sasl(self) -> bool:
        """Whether the client logs in with a user name and a password (SASL)."""
        return self.security.startswith("sasl")

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of each broker."""
        return [parse_broker(broker) for broker in self.brokers.split(",")]

    @cached_property
    def tls(self) -> ssl.SSLContext | None:
        """The trusted certificates and our own one; None without TLS.

        Raises:
            OptionError: a file cannot be read as PEM.
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
        """Keyword arguments for a consumer, producer or admin client of kafka-python.

        Raises:
            OptionError: the password is missing, or a file cannot be read.
        """
        options: dict[str, Any] = {
            "bootstrap_servers": [f"{host}:{port}" for host, port in self.addresses],
            "client_id": "posestream",
            "security_protocol": self.security.upper(),
        }
        if self.encrypted:
            options["ssl_context"] = self.tls
        if self.uses_sasl:
            options["sasl_mechanism"] = self.sasl_mechanism
            options["sasl_plain_username"] = self.username
            options["sasl_plain_password"] = self._password()
        return options

    def login(self) -> Any:
        """A new SASL conversation, as kafka-python implements it; None without SASL.

        Raises:
            OptionError: the password is missing.
        """
        if not self.uses_sasl:
            return None
        from kafka.net.sasl import get_sasl_mechanism

        return get_sasl_mechanism(self.sasl_mechanism)(**self.client_options())

    def _password(self) -> Secret:
        if self.password_file is None:
            password = os.environ.get(PASSWORD)
            if not password:
                raise OptionError("username", f"no password for user {self.username}: set {PASSWORD} "
                                              "in the environment, or name a password_file")  # fmt: skip
            return Secret(password)
        try:
            return Secret(Path(self.password_file).read_text(encoding="utf-8").rstrip("\r\n"))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a text file"
            raise OptionError("password_file", f"password_file {self.password_file}: {reason}") from None

    def _check(self) -> None:
        if self.security not in get_args(Security):
            raise OptionError(
                "security", f"security {self.security!r}: expected {', '.join(get_args(Security))}"
            )
        if self.sasl_mechanism not in get_args(Mechanism):
            valid = ", ".join(get_args(Mechanism))
            raise OptionError("sasl_mechanism", f"sasl_mechanism {self.sasl_mechanism!r}: expected {valid}")
        if self.uses_sasl and not self.username:
            raise OptionError("username", f"security {self.security} needs a username")
        sasl, tls = "sasl_plaintext or sasl_ssl", "ssl or sasl_ssl"
        for option, needed, used in (
            ("username", sasl, self.uses_sasl),
            ("password_file", sasl, self.uses_sasl),
            ("ca_file", tls, self.encrypted),
            ("cert_file", tls, self.encrypted),
            ("key_file", tls, self.encrypted),
        ):
            value = getattr(self, option)
            if value and not used:
                raise OptionError(option, f"{option} has no use with security {self.security}; set {needed}")
            if value and option.endswith("file") and not Path(value).is_file():
                raise OptionError(option, f"{option} {value}: no such file")
        if self.key_file and not self.cert_file:
            raise OptionError("key_file", "key_file needs the certificate it belongs to; set cert_file")
        try:
            _ = self.addresses
        except SourceError as error:
            raise OptionError("brokers", str(error)) from None


# The environment variable that replaces an option which is not given.
VARIABLES = {
    "brokers": "POSESTREAM_KAFKA",
    **{
        name: f"POSESTREAM_KAFKA_{name.upper()}"
        for name in Connection.__dataclass_fields__
        if name != "brokers"
    },
}
