"""The commands `posestream kafka tail` and `posestream kafka lag`."""

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
from tools.kafka.message_lines import json_line, text_line

if TYPE_CHECKING:
    from kafka import KafkaConsumer
    from kafka.consumer.fetcher import ConsumerRecord

POLL_MS = 500
QUIET_S = 3.0  # after this long without messages, check whether a broker answers
REQUEST_MS = 10_000

BrokersChoice = Annotated[
    str | None,
    typer.Option(
        "--brokers", "-b", metavar="HOST:PORT,…", help="Where Kafka is.",
        show_default="POSESTREAM_KAFKA, else localhost:9092",
    ),
]  # fmt: skip
JsonChoice = Annotated[
    bool, typer.Option("--json", help="Print JSON, one object a line, for pipes and scripts.")
]

app = typer.Typer(
    no_args_is_help=True,
    help="Show the messages of a topic (`tail`), and how far its readers are (`lag`).",
    epilog="Set TLS and passwords in the environment: POSESTREAM_KAFKA_SECURITY (ssl, sasl_plaintext or "
    "sasl_ssl), _USERNAME, _PASSWORD, _CA_FILE …; docs/kafka.md lists all of them.",
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
            help="Start at the oldest message, at the next one, or at the last N of each partition.",
        ),
    ] = "end",
    limit: Annotated[
        int | None, typer.Option(min=1, help="End after this many messages.", show_default="never")
    ] = None,
    as_json: JsonChoice = False,
) -> None:
    """Show the messages of a topic as they come: stream, frame number, age, and what was found or happened.

    Joins no consumer group, so it takes no messages away from workers. Ctrl-C ends it.

    Examples:
    `posestream kafka tail poses`

    `posestream kafka tail poses --from 10 --limit 10 --json | jq .seq`

    `posestream kafka tail poses.dead --from beginning` (messages that could not be read, and why)
    """  # fmt: skip
    from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
    from kafka.errors import KafkaError

    before_end = _messages_before_end(start)
    with suppress(KeyboardInterrupt):  # the way to end it
        connection = Connection.of(brokers=brokers)
        with closing(connect(KafkaAdminClient, connection, request_timeout_ms=REQUEST_MS)) as admin:
            parts = [TopicPartition(topic, number) for number in partitions(admin, connection, topic)]
        options = {"request_timeout_ms": REQUEST_MS, "enable_auto_commit": False}
        with closing(
            connect(KafkaConsumer, connection, allow_auto_create_topics=False, **options)
        ) as consumer:
            stderr = Console(stderr=True, highlight=False)
            try:
                _seek(consumer, parts, before_end)
                if not as_json:
                    count = f"{len(parts)} partitions" if len(parts) > 1 else "1 partition"
                    stderr.print(f"{topic}: {count}; Ctrl-C ends", style="dim", markup=False)
                for number, message in enumerate(_messages(consumer, connection, stderr), 1):
                    typer.echo(json_line(message) if as_json else text_line(message, time.time_ns()))
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
    """Show how far consumer groups have read: each partition's end, committed offset, lag and reader.

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


def _messages_before_end(start: str) -> int | None:
    """How many messages before the end `--from` means; None: all."""
    if start in ("beginning", "end"):
        return None if start == "beginning" else 0
    if not start.isdecimal():
        raise ConfigError(f"--from {start}: expected beginning, end, or a number of messages")
    return int(start)


def _seek(consumer: KafkaConsumer, parts: list[Any], before_end: int | None) -> None:
    consumer.assign(parts)
    begins, ends = consumer.beginning_offsets(parts), consumer.end_offsets(parts)
    for part in parts:
        offset = begins[part] if before_end is None else max(begins[part], ends[part] - before_end)
        consumer.seek(part, offset)


def _messages(consumer: KafkaConsumer, connection: Connection, stderr: Console) -> Iterator[ConsumerRecord]:
    """Messages as they come, without end; print once if the broker goes away, and once if it is back."""
    heard, away_since = time.monotonic(), None
    while True:
        batches = consumer.poll(POLL_MS).values()  # one a partition, in order
        messages = list(heapq.merge(*batches, key=lambda message: message.timestamp))
        now = time.monotonic()
        if messages or now - heard > QUIET_S:
            fault = None if messages else connection_fault(connection)
            if fault and not away_since:
                stderr.print(f"{fault}; waiting for it", markup=False, soft_wrap=True)
            if away_since and not fault:
                away_s = now - away_since
                stderr.print(f"kafka {connection.brokers}: back after {away_s:.0f} s", markup=False)
            away_since = (away_since or now) if fault else None
            heard = now
        yield from messages


def _print_lags(rows: list[Lag]) -> None:
    """Print a table for each group and topic; partitions without messages are only counted."""
    console = Console(highlight=False)
    for (group, topic), found in groupby(rows, key=lambda row: (row.group, row.topic)):
        all_rows = list(found)
        used = [row for row in all_rows if row.end or row.committed]
        behind = sum(row.lag or 0 for row in all_rows)
        unused = len(all_rows) - len(used)
        empty = f"; {unused} empty partitions" if unused else ""
        console.print(f"group {group}, topic {topic}: {behind} behind{empty}", markup=False, soft_wrap=True)
        if not used:
            continue
        table = Table()
        for name in Lag._fields[2:]:
            table.add_column(name, justify="left" if name == "member" else "right", overflow="fold")
        for row in used:
            table.add_row(*("-" if value is None else str(value) for value in row[2:]))
        console.print(table)
