"""How far the consumer groups of a broker are."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from operators.kafka.client import BrokerError
from operators.kafka.connection import Connection
from pipeline.errors import nearest

if TYPE_CHECKING:
    from kafka import KafkaAdminClient


class Lag(NamedTuple):
    """How far a group is with one partition; None where there is nothing to tell."""

    group: str
    topic: str
    partition: int
    end: int | None  # the offset that the next message will get
    committed: int | None  # the offset at which a reader would begin
    lag: int | None
    member: str | None  # who reads it now


def lags(admin: KafkaAdminClient, connection: Connection, group: str | None = None) -> list[Lag]:
    """All partitions that the groups have committed or read now, in order.

    Raises:
        KafkaError: the broker refuses, or is away.
        BrokerError: there is no such group.
    """
    from kafka import TopicPartition
    from kafka.admin import OffsetSpec

    groups = sorted(found["group_id"] for found in admin.list_groups())
    if group is not None and group not in groups:
        hint = nearest(group, groups) if groups else "there are none yet"
        raise BrokerError(f"kafka {connection.brokers}: there is no consumer group {group}; {hint}")
    wanted = [group] if group else groups
    if not wanted:
        return []
    committed = admin.list_group_offsets(wanted)
    readers = {
        (name, TopicPartition(part["topic"], number)): f"{member['client_id']}@{member['client_host'][1:]}"
        for name, described in admin.describe_groups(wanted).items()
        for member in described["members"]
        for part in (member["member_assignment"] or {}).get("assigned_partitions", ())
        for number in part["partitions"]
    }
    rows = sorted({(name, place) for name in wanted for place in committed[name]} | set(readers))
    if not rows:
        return []
    there = {  # a topic may have been deleted since
        TopicPartition(topic["name"], part["partition_index"])
        for topic in admin.describe_topics(sorted({place.topic for _, place in rows}))
        for part in topic["partitions"]
    }
    latest = {place: OffsetSpec.LATEST for _, place in rows if place in there}
    ends = {place: at.offset for place, at in admin.list_partition_offsets(latest).items()} if latest else {}
    made = []
    for name, place in rows:
        at = committed[name].get(place)
        done = at.offset if at is not None and at.offset >= 0 else None
        end = ends.get(place)
        rest = None if done is None or end is None else end - done
        made.append(Lag(name, place.topic, place.partition, end, done, rest, readers.get((name, place))))
    return made
