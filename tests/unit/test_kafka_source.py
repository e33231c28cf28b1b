"""A Kafka source on librdkafka's own brokers: what it brings, what it commits, and where it goes on."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

import pytest
from confluent_kafka import TopicPartition

from bandit.errors import NotAllowed
from server.ingest import kafka_topics
from server.ingest.base import Chosen, Received, SourceUnavailable
from server.ingest.kafka import KafkaSource, make
from server.ingest.kafka_settings import KafkaSettings
from server.ingest.kafka_topics import Topics
from server.store.fed import Position
from tests.kafka_ground import PARTITIONS, MockKafka, kafka_source

ALL = tuple(range(PARTITIONS))
PATIENT_S = 60.0


@pytest.fixture(scope="module")
def mock() -> Iterator[MockKafka]:
    """Brokers of this module; each test has a topic and a group of its own."""
    brokers = MockKafka()
    yield brokers
    brokers.close()


@pytest.fixture
def topic(request: pytest.FixtureRequest, mock: MockKafka) -> str:
    """An empty topic."""
    name = str(request.node.name).split("[")[0]
    mock.make(name)
    return name


@pytest.fixture
def source(mock: MockKafka, topic: str) -> Iterator[KafkaSource]:
    """A source of all partitions, opened where nothing was ever read."""
    found = kafka_source(mock, topics=(topic,), partitions=ALL, group=topic)
    found.open(lambda _: ())
    yield found
    found.close()


def take(source: KafkaSource, count: int, *, done: bool = True, limit: int = 100) -> list[Received]:
    """So many events, as they come."""
    taken: list[Received] = []
    deadline = time.monotonic() + PATIENT_S
    while len(taken) < count:
        assert time.monotonic() < deadline, f"only {len(taken)} of {count}: {source.state()}"
        batch = source.poll(limit, 0.2)
        if done:
            source.done(batch)
        taken += batch
    return taken


def numbers(first: int, count: int) -> list[bytes]:
    """Bodies that can be told apart."""
    return [b"%d" % each for each in range(first, first + count)]


def bodies(taken: Sequence[Received]) -> list[int]:
    """What they said, in order of the number."""
    return sorted(int(each.body) for each in taken)


def test_brings_everything_with_its_place(mock: MockKafka, topic: str, source: KafkaSource) -> None:
    mock.send(
        topic, numbers(0, 40), headers=[("Content-Type", b"application/json"), ("CE_id", b"7"), ("x", b"y")]
    )
    taken = take(source, 40)
    assert bodies(taken) == list(range(40))
    assert {each.position for each in taken} == {
        Position(f"{topic}/{at}", mock.cluster_id, offset) for at in ALL for offset in range(10)
    }
    assert taken[0].headers == {"content-type": "application/json", "ce_id": "7"}
    assert abs(taken[0].time_ms - time.time() * 1000) < 3_600_000
    assert source.state().connected
    assert sum(source.state().lag.values()) == 0


def test_commits_only_what_is_safe(mock: MockKafka, topic: str, source: KafkaSource) -> None:
    mock.send(topic, numbers(0, 40), partition=0)
    first = take(source, 1, done=False)
    rest = take(source, 40 - len(first), done=False)
    source.poll(1, 0)
    assert mock.committed(topic, topic) == dict.fromkeys(ALL, 0)  # where it began
    source.done(first)
    source.poll(1, 0)
    assert mock.committed(topic, topic)[0] == len(first)
    source.done(rest)
    source.close()
    assert mock.committed(topic, topic)[0] == 40


def test_goes_on_after_a_crash_with_what_was_not_safe(
    mock: MockKafka, topic: str, source: KafkaSource
) -> None:
    mock.send(topic, numbers(0, 30), partition=1)
    take(source, 30)
    source.poll(1, 0)
    mock.send(topic, numbers(30, 30), partition=1)
    take(source, 30, done=False)
    heir = kafka_source(mock, topics=(topic,), partitions=ALL, group=topic)
    heir.open(lambda _: ())
    assert bodies(take(heir, 30)) == list(range(30, 60))
    heir.close()


def test_begins_where_a_slot_went_back_to(mock: MockKafka, topic: str, source: KafkaSource) -> None:
    mock.send(topic, numbers(0, 30), partition=2)
    take(source, 30)
    source.poll(1, 0)
    heir = kafka_source(mock, topics=(topic,), partitions=ALL, group=topic)
    where = f"{topic}/2"
    heir.open(
        lambda name: (
            [Position(name, mock.cluster_id, 29), Position(name, mock.cluster_id, 9)] * (name == where)
        )
    )
    assert bodies(take(heir, 20)) == list(range(10, 30))
    assert heir.state().redelivered == 20
    heir.close()


def test_rests_and_loses_nothing(mock: MockKafka, topic: str, source: KafkaSource) -> None:
    mock.send(topic, numbers(0, 400))
    taken = list(take(source, 1))
    for _ in range(20):
        source.rest()
    mock.send(topic, numbers(400, 40))
    source.rest()
    taken += take(source, 440 - len(taken))
    assert bodies(taken) == list(range(440))
    assert source.state().redelivered == 0


def test_an_event_that_comes_while_it_rests_is_kept(mock: MockKafka, topic: str, source: KafkaSource) -> None:
    class Deaf:
        """A consumer whose partitions cannot be paused."""

        def __init__(self, consumer: Any) -> None:
            self._consumer = consumer

        def __getattr__(self, name: str) -> Any:
            return (lambda _: None) if name == "pause" else getattr(self._consumer, name)

    mock.send(topic, numbers(0, 40))
    taken = take(source, 1, limit=1)
    assert source._line is not None
    consumer, topics = source._line
    source._line = cast("Any", Deaf(consumer)), topics
    deadline = time.monotonic() + PATIENT_S
    while len(source._held) < 5:
        assert time.monotonic() < deadline
        source.rest()
    taken += take(source, 40 - len(taken))
    assert bodies(taken) == list(range(40))


def test_reads_again_what_the_store_lost(mock: MockKafka, topic: str, source: KafkaSource) -> None:
    mock.send(topic, numbers(0, 100), partition=0)
    mock.send(topic, numbers(100, 100), partition=1)
    stale = take(source, 200, done=False)
    source.rewind(
        {f"{topic}/0": [Position(f"{topic}/0", mock.cluster_id, 59)], f"{topic}/1": [], "other/0": []}
    )
    source.done(stale)  # of before: says nothing about what is read again
    source.poll(1, 0)
    assert mock.committed(topic, topic)[0] == 0
    assert bodies(take(source, 140 - 1, done=True))[-1] == 199
    assert source.state().redelivered == 140


def test_a_topic_that_was_made_again_is_read_from_its_head(
    mock: MockKafka, topic: str, source: KafkaSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    mock.send(topic, numbers(0, 40))
    take(source, 40)
    source.poll(1, 0)
    monkeypatch.setattr(
        Topics, "_glance", lambda self: (True, [t for t in [topic] if self._differs(t, "another")])
    )
    monkeypatch.setattr(Topics, "identity", lambda self, name: "another")
    taken = take(source, 40)
    assert bodies(taken) == list(range(40))
    assert {each.position.epoch for each in taken} == {"another"}


def test_a_log_that_was_cut_is_read_again(mock: MockKafka, topic: str) -> None:
    mock.send(topic, numbers(0, 20), partition=3)
    with mock.reader(topic) as other:
        other.commit(offsets=[TopicPartition(topic, 3, 50)], asynchronous=False)
    source = kafka_source(mock, topics=(topic,), partitions=(3,), group=topic)
    source.open(lambda name: [Position(name, mock.cluster_id, 49)])
    taken = take(source, 20)
    assert bodies(taken) == list(range(20))
    assert {each.position.epoch for each in taken} == {f"{mock.cluster_id}~1"}
    source.close()


def test_a_store_that_is_away_while_partitions_are_assigned_is_asked_again(
    mock: MockKafka, topic: str
) -> None:
    from bandit.errors import StoreUnavailable

    mock.send(topic, numbers(0, 8))
    answers = iter([StoreUnavailable("away"), StoreUnavailable("away")])

    def recall(name: str) -> Sequence[Position]:
        for error in answers:
            raise error
        return ()

    source = kafka_source(mock, topics=(topic,), partitions=ALL, group=topic)
    source.open(recall)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            source.poll(10, 0)
        source.rest()
    assert not source.state().connected
    assert bodies(take(source, 8)) == list(range(8))
    source.close()


def test_says_which_topic_is_missing(mock: MockKafka) -> None:
    source = kafka_source(mock, topics=("nobody-made-it",))
    with pytest.raises(SourceUnavailable, match="topic nobody-made-it"):
        source.open(lambda _: ())
    source.close()


def test_says_that_brokers_are_away_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_topics, "ANSWER_S", 0.3)
    settings = KafkaSettings(
        servers=("127.0.0.1:1",), topics=("rewards",), secrets=(("ssl.key.password", "127.0"),)
    )
    source = make(Chosen("orders", "kafka", settings), lambda: 0)
    with pytest.raises(SourceUnavailable) as caught:
        source.open(lambda _: ())
    assert "***" in str(caught.value)
    assert "127.0" not in str(caught.value)
    source.close()


def test_says_how_to_install_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(NotAllowed, match=r"banditd\[kafka\]"):
        make(
            Chosen("orders", "kafka", KafkaSettings(servers=("127.0.0.1:1",), topics=("rewards",))), lambda: 0
        )
