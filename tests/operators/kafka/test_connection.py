"""The connection to Kafka: options, URIs, and each mistake against a real broker, reported in one line."""

from __future__ import annotations

import http.server
import os
import socket
import threading
import time

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import KafkaError

from operators.kafka.addresses import parse_kafka_uri
from operators.kafka.client import BrokerError, connect, connection_fault, explain, partitions
from operators.kafka.connection import PASSWORD, Connection
from pipeline.errors import OptionError, SourceError
from tests.support.kafka.broker import USERS
from tests.support.kafka.ports import free_ports

WRONG_PASSWORD = "not-the-password"


@pytest.fixture(autouse=True)
def clear_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("POSESTREAM_KAFKA")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("kafka://a:9093/poses", ("a:9093", "poses", None)),
        ("kafka://a,b:9094/my.topic?group=g1", ("a,b:9094", "my.topic", "g1")),
        ("kafka:///poses", (None, "poses", None)),
        ("kafka://[::1]:9092/poses", ("[::1]:9092", "poses", None)),
    ],
)
def test_the_parts_of_a_uri(uri, parts):
    assert tuple(parse_kafka_uri(uri)) == parts


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("kafka://a:9092", "expected kafka://HOST:PORT/TOPIC"),
        ("kafka://a:9092/x/y", "expected kafka://HOST:PORT/TOPIC"),
        ("kafka://a:99999/poses", "expected HOST:PORT"),
        ("kafka://a:9092/poses?grp=g", "unknown grp"),
        (f"kafka://me:{WRONG_PASSWORD}@a:9092/poses", PASSWORD),
    ],
)
def test_a_wrong_uri_is_refused(uri, message):
    with pytest.raises(SourceError, match=message.replace("?", r"\?")) as caught:
        parse_kafka_uri(uri)
    assert WRONG_PASSWORD not in str(caught.value)


def test_options_win_over_the_environment(monkeypatch):
    monkeypatch.setenv("POSESTREAM_KAFKA", "one:1,two")
    monkeypatch.setenv("POSESTREAM_KAFKA_SECURITY", "ssl")
    assert Connection.of().addresses == [("one", 1), ("two", 9092)]
    assert Connection.of(brokers="three:3", security="plaintext") == Connection("three:3")
    assert Connection.of().client_options()["security_protocol"] == "SSL"


@pytest.mark.parametrize(
    ("options", "option", "message"),
    [
        ({"brokers": "a:b"}, "brokers", "expected HOST:PORT"),
        ({"security": "tls"}, "security", "expected plaintext, ssl"),
        ({"security": "sasl_ssl"}, "username", "needs a username"),
        ({"username": "me"}, "username", "set sasl_plaintext or sasl_ssl"),
        ({"ca_file": __file__}, "ca_file", "set ssl or sasl_ssl"),
        ({"security": "ssl", "ca_file": "/no/such.pem"}, "ca_file", "no such file"),
        ({"security": "ssl", "key_file": __file__}, "key_file", "set cert_file"),
        (
            {"security": "sasl_ssl", "username": "me", "sasl_mechanism": "MD5"},
            "sasl_mechanism",
            "expected PLAIN",
        ),
    ],
)
def test_contradictory_options_are_refused(options, option, message):
    with pytest.raises(OptionError, match=message) as caught:
        Connection.of(**options)
    assert caught.value.option == option


def test_a_file_that_holds_no_certificate():
    with pytest.raises(OptionError, match=r"ca_file .*not usable as PEM"):
        Connection.of(security="ssl", ca_file=__file__).client_options()


def test_the_password_is_read_and_never_shown(monkeypatch, tmp_path):
    connection = Connection.of(security="sasl_plaintext", username="me")
    with pytest.raises(OptionError, match=f"no password for user me: set {PASSWORD}"):
        connection.client_options()
    monkeypatch.setenv(PASSWORD, "secret-1")
    options = connection.client_options()
    assert options["sasl_plain_password"] == "secret-1"
    (tmp_path / "password").write_text("secret-2\n")
    from_file = Connection.of(
        security="sasl_plaintext", username="me", password_file=str(tmp_path / "password")
    )
    assert from_file.client_options()["sasl_plain_password"] == "secret-2"
    assert "secret" not in f"{connection} {options} {from_file} {from_file.client_options()}"


LISTENERS = {
    "plaintext": "PLAINTEXT",
    "ssl": "SSL",
    "sasl_plaintext": "SASL_PLAINTEXT",
    "sasl_ssl": "SASL_SSL",
}


def connection_to(kafka, listener, security, user="admin", **options):
    if "ssl" in security.split("_"):
        options.setdefault("ca_file", str(kafka.ca_file))
    if security.startswith("sasl"):
        options["username"] = user
    return Connection.of(brokers=kafka.address(LISTENERS[listener]), security=security, **options)


@pytest.mark.parametrize("security", LISTENERS)
def test_every_security_setting_connects(own_kafka, monkeypatch, security):
    topic = own_kafka.new_topic()
    monkeypatch.setenv(PASSWORD, USERS["admin"])
    connection = connection_to(own_kafka, security, security)
    producer = connect(KafkaProducer, connection)
    producer.send(topic, b"hello").get(20)
    producer.close()
    consumer = connect(KafkaConsumer, connection, auto_offset_reset="earliest", consumer_timeout_ms=20_000)
    consumer.subscribe([topic])
    assert next(consumer).value == b"hello"
    consumer.close()


@pytest.mark.parametrize(
    ("listener", "security", "message"),
    [
        ("ssl", "plaintext", "it speaks TLS only; set security: ssl"),
        ("sasl_ssl", "sasl_plaintext", "it speaks TLS only; set security: ssl (or sasl_ssl)"),
        ("plaintext", "ssl", "it does not speak TLS; set security: plaintext"),
        ("sasl_plaintext", "plaintext", "it asks for a password; set security: sasl_plaintext"),
        ("sasl_ssl", "ssl", "it asks for a password; set security: sasl_ssl"),
        ("plaintext", "sasl_plaintext", "it asks for no password; set security: plaintext"),
    ],
)
def test_the_wrong_security_setting(own_kafka, monkeypatch, listener, security, message):
    monkeypatch.setenv(PASSWORD, USERS["admin"])
    connection = connection_to(own_kafka, listener, security)
    assert_refused(connection, f"kafka {connection.brokers}: {message}")


def test_an_untrusted_certificate(own_kafka):
    connection = Connection.of(brokers=own_kafka.address("SSL"), security="ssl")
    assert_refused(
        connection, "its certificate is refused: self-signed certificate; name the certificate of its"
    )


@pytest.mark.parametrize(("user", "password"), [("admin", WRONG_PASSWORD), ("stranger", USERS["admin"])])
def test_a_wrong_user_or_password(own_kafka, monkeypatch, user, password):
    monkeypatch.setenv(PASSWORD, password)
    connection = connection_to(own_kafka, "sasl_plaintext", "sasl_plaintext", user)
    message = assert_refused(connection, "user name or password is refused (PLAIN)")
    assert password not in message


def test_a_mechanism_that_the_broker_does_not_offer(own_kafka, monkeypatch):
    monkeypatch.setenv(PASSWORD, USERS["admin"])
    connection = connection_to(own_kafka, "sasl_ssl", "sasl_ssl", sasl_mechanism="SCRAM-SHA-512")
    assert_refused(connection, "it does not offer SCRAM-SHA-512 but PLAIN; set sasl_mechanism")


def test_not_authorised(own_kafka, monkeypatch):
    topic = own_kafka.new_topic()
    monkeypatch.setenv(PASSWORD, USERS["worker"])
    connection = connection_to(own_kafka, "sasl_plaintext", "sasl_plaintext", "worker")
    producer = connect(KafkaProducer, connection)
    with pytest.raises(KafkaError) as caught:
        producer.send(topic, b"no").get(20)
    producer.close()
    assert f"user worker may not use topic {topic}" in explain(caught.value, connection, topic=topic)


def test_a_topic_that_does_not_exist(own_kafka):
    own_kafka.create_topic("animals.pose", partitions=2)
    connection = Connection.of(brokers=own_kafka.bootstrap)
    admin = connect(KafkaAdminClient, connection)
    assert partitions(admin, connection, "animals.pose") == [0, 1]
    with pytest.raises(BrokerError, match=r"there is no topic animal\.pose; did you mean animals\.pose\?"):
        partitions(admin, connection, "animal.pose")
    admin.close()


def test_a_broker_that_hangs_and_one_that_is_gone(own_kafka):
    connection = Connection.of(brokers=own_kafka.bootstrap)
    admin = connect(KafkaAdminClient, connection)
    own_kafka.pause()
    assert_refused(connection, "no answer within 1 s", timeout_s=1)
    own_kafka.resume()
    assert connection_fault(connection, 20) is None
    own_kafka.kill()
    assert_refused(connection, "nobody listens there")
    with pytest.raises(KafkaError) as caught:
        admin.list_topics()
    assert "nobody listens there" in explain(caught.value, connection)
    admin.close()


def test_one_broker_of_several_is_enough(kafka):
    gone = f"localhost:{free_ports(1)[0]}"
    connect(KafkaAdminClient, Connection.of(brokers=f"{gone},{kafka.bootstrap}")).close()


def test_other_servers_and_unknown_hosts():
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    try:
        assert_refused(
            Connection.of(brokers=f"127.0.0.1:{web.server_port}"), "this is a web server, no Kafka broker"
        )
    finally:
        web.shutdown()
        web.server_close()
    assert_refused(Connection.of(brokers="no.such.host.invalid"), "there is no host no.such.host.invalid")


def test_a_server_that_closes_the_connection():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up():
            for _ in range(2):
                server.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        assert_refused(Connection.of(brokers=f"127.0.0.1:{server.getsockname()[1]}"), "does not speak Kafka")


def assert_refused(connection, message, timeout_s=5.0):
    """Connecting fails within seconds, with `message` in one line, and leaves no thread behind."""
    threads, started = set(threading.enumerate()), time.monotonic()
    with pytest.raises(BrokerError) as caught:
        connect(KafkaAdminClient, connection, timeout_s=timeout_s)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 15
    while left := set(threading.enumerate()) - threads:  # threads of the web server end by themselves
        assert time.monotonic() - started < timeout_s + 10, left
        time.sleep(0.02)
    return str(caught.value)
