"""How far the consumer groups of a broker are behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from operators.kafka.client import BrokerError
from operators.kafka.connection import Connection
from pipeline.errors import nearest

if TYPE_CHECKING:
    from kafka import KafkaAdminClient


class Lag(NamedTuple):
    """How far a group has read one partition; None if that is unknown."""

    group: str
    topic: str
    partition: int
    end: int | None  # the offset that the next message will get
    committed: int | None  # the offset at which the next reader would begin
    lag: int | None
    member: str | None  # which client reads it now


def lags(admin: KafkaAdminClient, connection: Connection, group: str | None = None) -> list[Lag]:
    """The lag of each partition that a group reads now or has committed, sorted; of all groups, or of one.

    Raises:
        KafkaError: the broker refuses, or does not answer.
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
    known = sorted({(name, part) for name in wanted for part in committed[name]} | set(readers))
    if not known:
        return []
    existing = {  # a group may have read topics that are deleted now
        TopicPartition(topic["name"], part["partition_index"])
        for topic in admin.describe_topics(sorted({part.topic for _, part in known}))
        for part in topic["partitions"]
    }
    latest = {part: OffsetSpec.LATEST for _, part in known if part in existing}
    ends = {part: at.offset for part, at in admin.list_partition_offsets(latest).items()} if latest else {}
    rows = []
    for name, part in known:
        at = committed[name].get(part)
        offset = at.offset if at is not None and at.offset >= 0 else None
        end = ends.get(part)
        lag = None if offset is None or end is None else end - offset
        rows.append(Lag(name, part.topic, part.partition, end, offset, lag, readers.get((name, part))))
    return rows
