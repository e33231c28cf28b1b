"""Topics are told apart by their ids; a refusal or an old answer says nothing."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, cast

import pytest
from confluent_kafka import Uuid

from server.ingest.base import SourceUnavailable
from server.ingest.kafka_settings import KafkaSettings
from server.ingest.kafka_topics import Topics, client

SETTINGS = KafkaSettings(servers=("127.0.0.1:1",), topics=("rewards",), check_s=5.0)


class Described:
    """What brokers say of a topic."""

    def __init__(self, low: int) -> None:
        self.topic_id = Uuid(7 if low else 0, low)


class Asked(Topics):
    """Topics whose questions a test answers."""

    def __init__(self, first: int) -> None:
        super().__init__(SETTINGS, client(), cast("Any", None))
        self.open: list[Future[Any]] = []
        self._first: Future[Any] = Future()
        self._first.set_result(Described(first))

    def _ask(self, topics: Any) -> Any:
        if "rewards" not in self._known:
            return dict.fromkeys(topics, self._first)
        self.open.append(Future())
        return dict.fromkeys(topics, self.open[-1])


def known(low: int) -> Asked:
    """Of a topic that was asked about already."""
    topics = Asked(low)
    assert topics.identity("rewards") == str(Uuid(7, low))
    return topics


def test_a_topic_that_was_made_again_is_told_once() -> None:
    topics = known(1)
    assert topics.changed(5_000) == (False, [])
    topics.open[0].set_result(Described(1))
    assert topics.changed(5_100) == (True, [])
    assert topics.changed(5_200) == (False, [])  # that answer is used up
    assert len(topics.open) == 1  # the next is due later
    topics.changed(10_000)
    topics.open[1].set_result(Described(2))
    assert topics.changed(10_100) == (True, ["rewards"])
    assert topics.changed(10_200) == (False, [])  # until it is asked for its identity, nothing is known of it


def test_a_refusal_and_an_id_of_zeros_say_nothing() -> None:
    topics = known(1)
    topics.changed(5_000)
    topics.open[0].set_exception(client().KafkaException("away"))
    assert topics.changed(5_100) == (False, [])
    topics.changed(10_000)
    topics.open[1].set_result(Described(0))
    assert topics.changed(10_100) == (True, [])
    topics.changed(15_000)
    topics.open[2].set_result(Described(1))
    assert topics.changed(15_100) == (True, [])


def test_one_question_at_a_time() -> None:
    topics = known(1)
    for now_ms in range(5_000, 60_000, 1_000):
        assert topics.changed(now_ms) == (False, [])
    assert len(topics.open) == 1


def test_brokers_without_ids_are_refused_with_what_to_do() -> None:
    topics = Asked(0)
    with pytest.raises(SourceUnavailable, match='identity = "cluster"'):
        topics.identity("rewards")
