"""A real Kafka for tests: `kafka` (one node), `own_kafka` (one that may be killed), `kafka_cluster` (three nodes).

POSESTREAM_TEST_KAFKA=HOST:PORT names a broker that runs already (for `kafka` only: it is never killed), else Docker
or Java start one, else such tests are skipped with the reason.
"""

from __future__ import annotations

import os
import shutil

import pytest

from tests.support.kafka.broker import Broker, Cluster, Outside
from tests.support.kafka.runtime import NoKafkaError


def started(kafka: Broker | Cluster):
    """Yield it running; skip the tests that want it where there is none."""
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
    shutil.rmtree(folder / "data", ignore_errors=True)  # pytest keeps folders of three runs


@pytest.fixture(scope="session")
def kafka(request):
    """A broker of one node; `bootstrap` is its address. `create_topic` and `new_topic` make topics."""
    given = os.environ.get("POSESTREAM_TEST_KAFKA")
    return Outside(given) if given else request.getfixturevalue("_broker")


@pytest.fixture
def own_kafka(_broker):
    """A broker of ours (`Broker`), also with TLS and passwords; a test may kill, pause and restart it."""
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
