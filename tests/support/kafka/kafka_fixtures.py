"""A real Kafka for tests: `kafka` (one node), `own_kafka` (a node that tests may kill), `kafka_cluster` (three nodes).

With POSESTREAM_TEST_KAFKA=HOST:PORT, the fixture `kafka` uses a broker that runs already; it is never killed. All
others are started with Docker or Java. If there is neither, the tests are skipped with the reason.
"""

from __future__ import annotations

import os
import shutil

import pytest
from sink_frames import RUN

from tests.support.kafka.broker import Broker
from tests.support.kafka.cluster import Cluster
from tests.support.kafka.runtime import NoKafkaError
from tests.support.kafka.topics import RunningBroker

LIVE = RUN._replace(live=True)


def started(kafka: Broker | Cluster):
    """Start the broker, yield it, stop it; skip the tests if it cannot be started."""
    try:
        yield kafka.start()
    except NoKafkaError as error:
        pytest.skip(str(error))
    finally:
        kafka.stop()


@pytest.fixture(scope="session")
def _broker(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kafka")
    yield from started(Broker(folder, secure=True))
    shutil.rmtree(folder / "data", ignore_errors=True)  # else pytest keeps it for three runs


@pytest.fixture(scope="session")
def kafka(request):
    """A broker of one node, which must keep running; `bootstrap` is its address."""
    given = os.environ.get("POSESTREAM_TEST_KAFKA")
    return RunningBroker(given) if given else request.getfixturevalue("_broker")


@pytest.fixture
def own_kafka(_broker):
    """A `Broker` with TLS and passwords, too; a test may kill, pause and restart it."""
    yield _broker.ensure_running()
    _broker.ensure_running()


@pytest.fixture(scope="module")
def _cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kafka-cluster")
    yield from started(Cluster(folder))
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def kafka_cluster(_cluster):
    """Three nodes (`Cluster`); a test may kill, pause and restart them."""
    return _cluster.ensure_running()


@pytest.fixture
def topic(kafka):
    """The name of a new topic of one partition."""
    return kafka.new_topic()


@pytest.fixture
def open_sink(tmp_path):
    """A function that opens a kafka_sink in a live run; sinks that a test leaves open are closed at its end."""
    from operators.kafka_sink import KafkaSink

    made = []

    def open_sink(kafka, topic, run=LIVE, **options):
        options = {"spool_dir": str(tmp_path / "spool"), "client": "kafka-python", **options}
        sink = KafkaSink(topic=topic, brokers=getattr(kafka, "bootstrap", kafka), **options)
        sink.open(run)
        made.append(sink)
        return sink

    yield open_sink
    for sink in made:
        if sink.publisher._thread.is_alive():
            sink.flush_s = 0
            sink.close()
