"""`posestream kafka`: look into a topic, and at how far its readers are."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from operators.kafka.client import BrokerError, connect, connection_fault, explain, partitions
from operators.kafka.connection import Connection
from pipeline.errors import ConfigError
from tools.kafka.lag import Lag, lags
from tools.kafka.message_lines import json_line, line

if TYPE_CHECKING:
    from kafka import KafkaConsumer
    from kafka.consumer.fetcher import ConsumerRecord

POLL_MS = 500
QUIET_S = 3.0  # after so long without a message, see whether the broker is still there
REQUEST_MS = 10_000

BrokersChoice = Annotated[
    str | None,
    typer.Option(
        "--brokers", "-b", metavar="HOST:PORT,…", help="Where Kafka is.",
        show_default="POSESTREAM_KAFKA, else localhost:9092",
    ),
]  # fmt: skip
JsonChoice = Annotated[bool, typer.Option("--json", help="JSON, a line each, for pipes and scripts.")]

app = typer.Typer(
    no_args_is_help=True,
    help="Look into a topic (`tail`), and at how far its readers are (`lag`).",
    epilog="TLS and passwords come from the environment: POSESTREAM_KAFKA_SECURITY (ssl, sasl_plaintext or "
    "sasl_ssl), _USERNAME, _PASSWORD, _CA_FILE … as docs/kafka.md lists them.",
    rich_markup_mode="markdown",
)


@app.command("tail")
def tail(
    topic: Annotated[str, typer.Argument(help="The topic.", show_default=False)],
    brokers: BrokersChoice = None,
    start: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="beginning|end|N",
            help="Begin with the oldest message, with the next one, or with the last N of each partition.",
        ),
    ] = "end",
    limit: Annotated[
        int | None, typer.Option(min=1, help="End after so many messages.", show_default="never")
    ] = None,
    as_json: JsonChoice = False,
) -> None:
    """Show the messages of a topic as they come: stream, frame, age, who is in it, and what happened.

    Joins no consumer group, so it takes nothing away from workers. Ctrl-C ends it.

    Examples:
    `posestream kafka tail poses`

    `posestream kafka tail poses --from 10 --limit 10 --json | jq .seq`

    `posestream kafka tail poses.dead --from beginning` (what could not be read, and why)
    """  # fmt: skip
    from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
    from kafka.errors import KafkaError

    back = _back(start)
    with suppress(KeyboardInterrupt):  # the way to end it
        connection = Connection.of(brokers=brokers)
        with closing(connect(KafkaAdminClient, connection, request_timeout_ms=REQUEST_MS)) as admin:
            places = [TopicPartition(topic, number) for number in partitions(admin, connection, topic)]
        options = {"request_timeout_ms": REQUEST_MS, "enable_auto_commit": False}
        with closing(
            connect(KafkaConsumer, connection, allow_auto_create_topics=False, **options)
        ) as consumer:
            told = Console(stderr=True, highlight=False)
            try:
                _seek(consumer, places, back)
                if not as_json:
                    shared = f"{len(places)} partitions" if len(places) > 1 else "1 partition"
                    told.print(f"{topic}: {shared}; Ctrl-C ends", style="dim", markup=False)
                for number, message in enumerate(_messages(consumer, connection, told), 1):
                    typer.echo(json_line(message) if as_json else line(message, time.time_ns()))
                    if number == limit:
                        break
            except KafkaError as error:
                raise BrokerError(explain(error, connection, topic=topic)) from error


@app.command("lag")
def lag(
    group: Annotated[
        str | None, typer.Argument(help="The consumer group.", show_default="all groups")
    ] = None,
    brokers: BrokersChoice = None,
    as_json: JsonChoice = False,
) -> None:
    """Show how far consumer groups are: each partition's end, what is committed, the rest, and the reader.

    Examples:
    `posestream kafka lag`

    `posestream kafka lag animals.pose --json`
    """  # fmt: skip
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError

    connection = Connection.of(brokers=brokers)
    with closing(connect(KafkaAdminClient, connection, request_timeout_ms=REQUEST_MS)) as admin:
        try:
            found = lags(admin, connection, group)
        except KafkaError as error:
            raise BrokerError(explain(error, connection)) from error
    if as_json:
        for row in found:
            typer.echo(orjson.dumps(row._asdict()))
    elif found:
        _print_lags(found)
    else:
        typer.echo("no consumer group has read anything yet", err=True)


def _back(start: str) -> int | None:
    """How many messages before the end to begin with; None: all."""
    if start in ("beginning", "end"):
        return None if start == "beginning" else 0
    if not start.isdecimal():
        raise ConfigError(f"--from {start}: expected beginning, end, or a number of messages")
    return int(start)


def _seek(consumer: KafkaConsumer, places: list[Any], back: int | None) -> None:
    consumer.assign(places)
    oldest, next_ = consumer.beginning_offsets(places), consumer.end_offsets(places)
    for place in places:
        at = oldest[place] if back is None else max(oldest[place], next_[place] - back)
        consumer.seek(place, at)


def _messages(consumer: KafkaConsumer, connection: Connection, told: Console) -> Iterator[ConsumerRecord]:
    """Messages as they come, for ever; where the broker is away, that is told, once."""
    heard, away = time.monotonic(), None
    while True:
        batches = consumer.poll(POLL_MS).values()  # one a partition, in order
        messages = list(heapq.merge(*batches, key=lambda message: message.timestamp))
        now = time.monotonic()
        if messages or now - heard > QUIET_S:
            reason = None if messages else connection_fault(connection)
            if reason and not away:
                told.print(f"{reason}; waiting for it", markup=False, soft_wrap=True)
            if away and not reason:
                told.print(f"kafka {connection.brokers}: back after {now - away:.0f} s", markup=False)
            away = (away or now) if reason else None
            heard = now
        yield from messages


def _print_lags(rows: list[Lag]) -> None:
    """A table for each group and topic; partitions that have never held anything are only counted."""
    console = Console(highlight=False)
    for (group, topic), found in groupby(rows, key=lambda row: (row.group, row.topic)):
        parts = list(found)
        used = [row for row in parts if row.end or row.committed]
        behind = sum(row.lag or 0 for row in parts)
        empty = f"; {len(parts) - len(used)} empty partitions" if len(used) < len(parts) else ""
        console.print(f"group {group}, topic {topic}: {behind} behind{empty}", markup=False, soft_wrap=True)
        if not used:
            continue
        table = Table()
        for name in Lag._fields[2:]:
            table.add_column(name, justify="left" if name == "member" else "right", overflow="fold")
        for row in used:
            table.add_row(*("-" if value is None else str(value) for value in row[2:]))
        console.print(table)
