"""Find out why a broker cannot be used: three small requests show what the client library only retries.

The requests are ApiVersions, SaslHandshake and SaslAuthenticate of Kafka's protocol. A broker answers them
before a client has logged in, within milliseconds, and the answers tell the usual mistakes apart.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from typing import Protocol

API_VERSIONS, SASL_HANDSHAKE, SASL_AUTHENTICATE = (18, 0), (17, 1), (36, 0)  # number and version
UNSUPPORTED_MECHANISM, NOT_EXPECTED = 33, 34  # error codes of SaslHandshake


class ProtocolError(Exception):
    """The answer is not Kafka's protocol; `reply` holds its first bytes."""

    def __init__(self, reply: bytes):
        super().__init__(reply)
        self.reply = reply


class Login(Protocol):
    """One conversation of a SASL mechanism, with the methods of the classes in kafka.net.sasl."""

    def auth_bytes(self) -> bytes:
        """The next message to send."""

    def receive(self, answer: bytes) -> object:
        """Take the broker's answer; raises ValueError if it is wrong."""

    def is_done(self) -> bool:
        """Whether the conversation is complete."""


def find_fault(
    host: str,
    port: int,
    timeout_s: float,
    *,
    tls: ssl.SSLContext | None = None,
    mechanism: str = "",
    login: Login | None = None,
) -> str | None:
    """Why a broker cannot be used with this TLS context (None: without TLS) and login; None if it can."""
    try:
        with _connect(host, port, timeout_s, tls) as link:
            _request(link, API_VERSIONS)
            handshake = _request(link, SASL_HANDSHAKE, _string(mechanism or "PLAIN"))
            if (fault := _login_fault(handshake, mechanism, tls)) or login is None:
                return fault
            return _log_in(link, login, mechanism)
    except socket.gaierror:
        return f"there is no host {host}; check the address, or name another with POSESTREAM_KAFKA"
    except ConnectionRefusedError:
        return "nobody listens there; start the broker, or name another with --brokers or POSESTREAM_KAFKA"
    except ssl.SSLCertVerificationError as error:
        reason = error.verify_message.rstrip(".") or "not trusted"
        return f"its certificate is refused: {reason}; name the certificate of its authority with ca_file"
    except TimeoutError:
        return f"no answer within {timeout_s:.3g} s: the broker hangs, or a firewall drops the packets"
    except (ssl.SSLError, ConnectionError, ProtocolError) as error:
        return _protocol_fault(host, port, timeout_s, tls, error)
    except OSError as error:
        return f"cannot be reached: {error.strerror or error}"


def _login_fault(handshake: bytes, mechanism: str, tls: ssl.SSLContext | None) -> str | None:
    """What the answer to SaslHandshake says against a login by `mechanism` ("": without login)."""
    (code,) = struct.unpack_from(">h", handshake)
    if not mechanism:
        security = "sasl_ssl" if tls else "sasl_plaintext"
        return None if code == NOT_EXPECTED else f"it asks for a password; set security: {security}"
    if code == NOT_EXPECTED:
        return f"it asks for no password; set security: {'ssl' if tls else 'plaintext'}"
    if code == UNSUPPORTED_MECHANISM:
        offered = ", ".join(_strings(handshake[2:]))
        return f"it does not offer {mechanism} but {offered}; set sasl_mechanism"
    return None


def _log_in(link: socket.socket, login: Login, mechanism: str) -> str | None:
    refused = f"user name or password is refused ({mechanism}); the password is read from " \
              "POSESTREAM_KAFKA_PASSWORD or password_file"  # fmt: skip
    while not login.is_done():
        message = login.auth_bytes()
        answer = _request(link, SASL_AUTHENTICATE, struct.pack(">i", len(message)) + message)
        (code,) = struct.unpack_from(">h", answer)
        if code:
            return refused
        (length,) = struct.unpack_from(">h", answer, 2)  # of an error message, -1 for none
        at = 4 + max(length, 0)
        (size,) = struct.unpack_from(">i", answer, at)
        try:
            login.receive(answer[at + 4 : at + 4 + max(size, 0)])
        except ValueError:  # SCRAM: the broker could not prove that it knows the password
            return refused
    return None


def _protocol_fault(
    host: str, port: int, timeout_s: float, tls: ssl.SSLContext | None, error: Exception
) -> str:
    """Why the conversation broke off: usually only one of the two sides uses TLS."""
    if isinstance(error, ProtocolError) and error.reply.startswith((b"HTTP", b"<")):
        return "this is a web server, no Kafka broker; a broker's usual port is 9092"
    if isinstance(error, ssl.SSLError) and "CERTIFICATE_REQUIRED" in (error.reason or ""):
        return "it asks for a certificate of the client; set cert_file and key_file"
    with contextlib.suppress(OSError, ProtocolError):
        if tls:
            with _connect(host, port, timeout_s, None) as link:
                _request(link, API_VERSIONS)
                return "it does not speak TLS; set security: plaintext (or sasl_plaintext)"
        unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE  # nothing secret is sent
        with _connect(host, port, timeout_s, unverified):
            return "it speaks TLS only; set security: ssl (or sasl_ssl)"
    reason = error.reason if isinstance(error, ssl.SSLError) and error.reason else type(error).__name__
    protocol = "Kafka over TLS" if tls else "Kafka"
    return f"the server there does not speak {protocol} ({reason}); check the address"


def _connect(host: str, port: int, timeout_s: float, tls: ssl.SSLContext | None) -> socket.socket:
    plain = socket.create_connection((host, port), timeout_s)
    if tls is None:
        return plain
    try:
        return tls.wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise


def _request(link: socket.socket, request: tuple[int, int], content: bytes = b"") -> bytes:
    """Send one request and return the body of the answer."""
    body = struct.pack(">hhi", *request, 1) + _string("posestream") + content
    link.sendall(struct.pack(">i", len(body)) + body)
    head = _read(link, 8)
    size, number = struct.unpack(">ii", head)
    if number != 1 or not 4 < size < 1_000_000:
        raise ProtocolError(head)
    return _read(link, size - 4)


def _read(link: socket.socket, size: int) -> bytes:
    read = b""
    while len(read) < size:
        more = link.recv(size - len(read))
        if not more:
            raise ProtocolError(read)
        read += more
    return read


def _string(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode("ascii")


def _strings(data: bytes) -> list[str]:
    (count,) = struct.unpack_from(">i", data)
    texts, at = [], 4
    for _ in range(count):
        (size,) = struct.unpack_from(">h", data, at)
        texts.append(data[at + 2 : at + 2 + size].decode())
        at += 2 + size
    return texts
