"""What stands behind a broker's address: three small requests tell what the client library only retries.

The requests are ApiVersions, SaslHandshake and SaslAuthenticate of Kafka's protocol, which a broker answers
before anybody has logged in. That takes milliseconds, and tells each mistake apart.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from typing import Protocol

API_VERSIONS, SASL_HANDSHAKE, SASL_AUTHENTICATE = (18, 0), (17, 1), (36, 0)  # number and version
UNSUPPORTED_MECHANISM, NOT_EXPECTED = 33, 34  # error codes of SaslHandshake


class StrangeError(Exception):
    """The other side is no broker, or not one that is spoken to so; `reply` is how its answer begins."""

    def __init__(self, reply: bytes):
        super().__init__(reply)
        self.reply = reply


class Login(Protocol):
    """One conversation of a SASL mechanism, as the classes in kafka.net.sasl have it."""

    def auth_bytes(self) -> bytes:
        """What to send next."""

    def receive(self, answer: bytes) -> object:
        """Take the answer to it; raises if it is none."""

    def is_done(self) -> bool:
        """Nothing more is to be sent."""


def why_not(
    host: str,
    port: int,
    timeout_s: float,
    *,
    tls: ssl.SSLContext | None = None,
    mechanism: str = "",
    login: Login | None = None,
) -> str | None:
    """Why a broker cannot be spoken to with (or without) TLS and a login by `mechanism`; None if it can."""
    try:
        with _dial(host, port, timeout_s, tls) as link:
            _ask(link, API_VERSIONS)
            offered = _ask(link, SASL_HANDSHAKE, _string(mechanism or "PLAIN"))
            if (reason := _not_as_asked(offered, mechanism, tls)) or login is None:
                return reason
            return _log_in(link, login, mechanism)
    except socket.gaierror:
        return f"there is no host {host}; check the address, or name another with POSESTREAM_KAFKA"
    except ConnectionRefusedError:
        return "nobody listens there; start the broker, or name another with --brokers or POSESTREAM_KAFKA"
    except ssl.SSLCertVerificationError as error:
        said = error.verify_message.rstrip(".") or "not trusted"
        return f"its certificate is refused: {said}; name the certificate of its authority with ca_file"
    except TimeoutError:
        return (
            f"no answer within {timeout_s:.3g} s: the machine or the broker hangs, or a firewall is between"
        )
    except (ssl.SSLError, ConnectionError, StrangeError) as error:
        return _mismatch(host, port, timeout_s, tls, error)
    except OSError as error:
        return f"cannot be reached: {error.strerror or error}"


def _not_as_asked(answer: bytes, mechanism: str, tls: ssl.SSLContext | None) -> str | None:
    """What the answer to SaslHandshake means to one who logs in by `mechanism`, or does not ("")."""
    (code,) = struct.unpack_from(">h", answer)
    if not mechanism:
        security = "sasl_ssl" if tls else "sasl_plaintext"
        return None if code == NOT_EXPECTED else f"it asks for a password; set security: {security}"
    if code == NOT_EXPECTED:
        return f"it asks for no password; set security: {'ssl' if tls else 'plaintext'}"
    if code == UNSUPPORTED_MECHANISM:
        return f"it does not offer {mechanism} but {', '.join(_strings(answer[2:]))}; set sasl_mechanism"
    return None


def _log_in(link: socket.socket, login: Login, mechanism: str) -> str | None:
    refused = f"user name or password is refused ({mechanism}); the password is read from " \
              "POSESTREAM_KAFKA_PASSWORD or password_file"  # fmt: skip
    while not login.is_done():
        said = login.auth_bytes()
        answer = _ask(link, SASL_AUTHENTICATE, struct.pack(">i", len(said)) + said)
        (code,) = struct.unpack_from(">h", answer)
        if code:
            return refused
        (skipped,) = struct.unpack_from(">h", answer, 2)  # the length of an error message, -1 for none
        at = 4 + max(skipped, 0)
        (size,) = struct.unpack_from(">i", answer, at)
        try:
            login.receive(answer[at + 4 : at + 4 + max(size, 0)])
        except ValueError:  # the broker does not know the password either
            return refused
    return None


def _mismatch(host: str, port: int, timeout_s: float, tls: ssl.SSLContext | None, error: Exception) -> str:
    """Why a conversation broke off: mostly because one side speaks TLS and the other does not."""
    if isinstance(error, StrangeError) and error.reply.startswith((b"HTTP", b"<")):
        return "this is a web server, no Kafka broker; Kafka's own port is 9092 as a rule"
    if isinstance(error, ssl.SSLError) and "CERTIFICATE_REQUIRED" in (error.reason or ""):
        return "it asks for a certificate of the client; set cert_file and key_file"
    with contextlib.suppress(OSError, StrangeError):
        if tls:
            with _dial(host, port, timeout_s, None) as link:
                _ask(link, API_VERSIONS)
                return "it does not speak TLS; set security: plaintext (or sasl_plaintext)"
        anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE  # nothing secret is sent
        with _dial(host, port, timeout_s, anybody):
            return "it speaks TLS only; set security: ssl (or sasl_ssl)"
    reason = error.reason if isinstance(error, ssl.SSLError) and error.reason else type(error).__name__
    spoken = "Kafka over TLS" if tls else "Kafka"
    return f"what answers there does not speak {spoken} ({reason}); check the address"


def _dial(host: str, port: int, timeout_s: float, tls: ssl.SSLContext | None) -> socket.socket:
    plain = socket.create_connection((host, port), timeout_s)
    if tls is None:
        return plain
    try:
        return tls.wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise


def _ask(link: socket.socket, request: tuple[int, int], content: bytes = b"") -> bytes:
    """Send one request and give the body of its answer."""
    body = struct.pack(">hhi", *request, 1) + _string("posestream") + content
    link.sendall(struct.pack(">i", len(body)) + body)
    head = _read(link, 8)
    size, number = struct.unpack(">ii", head)
    if number != 1 or not 4 < size < 1_000_000:
        raise StrangeError(head)
    return _read(link, size - 4)


def _read(link: socket.socket, size: int) -> bytes:
    read = b""
    while len(read) < size:
        more = link.recv(size - len(read))
        if not more:
            raise StrangeError(read)
        read += more
    return read


def _string(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode("ascii")


def _strings(data: bytes) -> list[str]:
    (count,) = struct.unpack_from(">i", data)
    found, at = [], 4
    for _ in range(count):
        (size,) = struct.unpack_from(">h", data, at)
        found.append(data[at + 2 : at + 2 + size].decode())
        at += 2 + size
    return found
