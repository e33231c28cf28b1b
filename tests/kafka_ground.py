"""A Kafka cluster for tests: librdkafka's own mock brokers, on free loopback ports, in this process.

It keeps groups, commits and rebalances as a broker does. It knows no topic ids (its cluster id stands for them), and
makes a group wait three seconds for its first member.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from server.clock import SystemClock
from server.ingest.base import RewardSource
from server.ingest.kafka import KafkaSource
from server.ingest.kafka_settings import KafkaSettings
from server.ingest.kafka_topics import client

PARTITIONS = 4  # of every topic of the mock
Headers = Sequence[tuple[str, bytes]]


class MockKafka:
    """The brokers live as long as this object."""

    def __init__(self, brokers: int = 1) -> None:
        self._producer = Producer(
            {
                "bootstrap.servers": "mock",
                "test.mock.num.brokers": brokers,
                "log_level": 0,
                "linger.ms": 1,
                "queue.buffering.max.messages": 2_000_000,
            }
        )
        found = self._producer.list_topics(timeout=10)
        self.cluster_id = str(found.cluster_id)
        self.servers = ",".join(f"{each.host}:{each.port}" for each in found.brokers.values())

    def make(self, topic: str) -> None:
        """Have an empty topic: the mock makes one when it is asked about it."""
        self._producer.list_topics(topic, timeout=10)

    def send(
        self, topic: str, values: Iterable[bytes], *, partition: int | None = None, headers: Headers = ()
    ) -> None:
        """Append each value; without ``partition`` they go round. All are in the log when it returns."""
        for number, value in enumerate(values):
            self._producer.produce(
                topic,
                value,
                partition=number % PARTITIONS if partition is None else partition,
                headers=list(headers),
            )
            if not number % 1000:
                self._producer.poll(0)
        left = self._producer.flush(30)
        assert left == 0, f"{left} records were not taken by the mock"

    def committed(self, topic: str, group: str) -> dict[int, int]:
        """Committed offset per partition; those without a commit are left out."""
        with self.reader(group) as reader:
            found = reader.committed([TopicPartition(topic, at) for at in range(PARTITIONS)], timeout=10)
        return {each.partition: each.offset for each in found if each.offset >= 0}

    @contextmanager
    def reader(self, group: str = "reader", **settings: Any) -> Iterator[Consumer]:
        """A consumer of the test's own."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.servers,
                "group.id": group,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "log_level": 0,
                **settings,
            }
        )
        try:
            yield consumer
        finally:
            consumer.close()

    def close(self) -> None:
        """Stop the brokers."""
        self._producer.flush(5)
        del self._producer


class KafkaGround:
    """See ``tests.sources.Ground``: a topic of the mock, read without a group, so that nobody waits for one."""

    def __init__(self, mock: MockKafka, topic: str) -> None:
        self._mock = mock
        self._topic = topic
        mock.make(topic)

    def send(self, bodies: Sequence[bytes], headers: Mapping[str, str] | None = None) -> None:
        """See Ground; order is promised within a partition."""
        self._mock.send(
            self._topic,
            bodies,
            partition=0,
            headers=[(name, value.encode()) for name, value in (headers or {}).items()],
        )

    def source(self) -> KafkaSource:
        """See Ground."""
        return kafka_source(self._mock, topics=(self._topic,), partitions=tuple(range(PARTITIONS)))

    def crash(self, source: RewardSource) -> None:
        """See Ground: the client goes without a commit and without a word to the group."""
        assert isinstance(source, KafkaSource)
        if source._line is not None:
            source._line[0].close()
        source._line = None
        source._parts.clear()


def kafka_source(mock: MockKafka, *, now_ms: Callable[[], int] | None = None, **settings: Any) -> KafkaSource:
    """A source on the mock, not opened yet; offsets are committed at every poll."""
    given = {
        "topics": ("rewards",),
        "commit_s": 0.0,
        "check_s": 1.0,
        "session_timeout_s": 6.0,
        "stall_s": 10.0,
        **settings,
    }
    servers = tuple(mock.servers.split(","))
    return KafkaSource(
        KafkaSettings(servers=servers, identity="cluster", **given), now_ms or SystemClock().now_ms, client()
    )


@contextmanager
def kafka_ground(folder: Path) -> Iterator[KafkaGround]:
    """For the contract suite of sources."""
    mock = MockKafka()
    try:
        yield KafkaGround(mock, "rewards")
    finally:
        mock.close()
