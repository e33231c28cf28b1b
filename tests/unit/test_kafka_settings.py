"""Settings of a Kafka source: what decides about exactness is ours, secrets are masked, mistakes are said at once."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import Consumer

from bandit.errors import InvalidArgument
from server.ingest.base import Chosen, Kind
from server.ingest.kafka import make
from server.ingest.kafka_settings import KafkaSettings
from server.ingest.settings import read, shown

KINDS = {"kafka": Kind(KafkaSettings, make)}
LEAST: dict[str, Any] = {
    "name": "orders",
    "kind": "kafka",
    "servers": ["127.0.0.1:9092"],
    "topics": "rewards",
}


def chosen(**changes: Any) -> Chosen:
    """A source of the least settings and these."""
    return read([{**LEAST, **changes}], KINDS)[0]


def settings(**changes: Any) -> KafkaSettings:
    """Its settings."""
    found = chosen(**changes).settings
    assert isinstance(found, KafkaSettings)
    return found


def refusal(**changes: Any) -> str:
    """What is said of these settings."""
    with pytest.raises(InvalidArgument) as caught:
        chosen(**changes)
    return str(caught.value)


def test_nothing_is_committed_or_skipped_behind_our_back() -> None:
    found = settings(client={"fetch.min.bytes": 10}).consumer()
    assert found["enable.auto.commit"] is False
    assert found["enable.auto.offset.store"] is False
    assert found["auto.offset.reset"] == "error"
    assert found["isolation.level"] == "read_committed"
    assert found["fetch.min.bytes"] == "10"
    assert found["partition.assignment.strategy"] == "cooperative-sticky"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"assignment": "eager", "member": "one"},
        {"partitions": [0, 3]},
        {
            "security": "sasl_ssl",
            "client": {"sasl.mechanism": "PLAIN", "sasl.username": "anna"},
            "secrets": {"sasl.password": "hush"},
        },
        {"session_timeout_s": 3, "stall_s": 4},
    ],
)
def test_the_client_takes_what_the_settings_say(changes: dict[str, Any]) -> None:
    consumer = Consumer({**settings(**changes).consumer(), "log_level": 0})
    consumer.close()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"servers": "broker"}, "HOST:PORT"),
        ({"topics": []}, "1 to 100 texts"),
        ({"topics": ["a b"]}, "names of topics"),
        ({"topics": ["x" * 181]}, "at most 180"),
        ({"partitions": [-1]}, "a list of numbers of partitions"),
        ({"partitions": [True]}, "a list of numbers of partitions"),
        ({"partitions": [0], "member": "one"}, "leave one of them out"),
        ({"servers": ["broker:9092"]}, "security is missing"),
        ({"stall_s": 10}, "make it as long"),
        ({"client": {"enable.auto.commit": "true"}}, "enable.auto.commit is not passed on"),
        ({"client": {"group.id": "x"}}, "group.id is not passed on"),
        ({"client": {"sasl.password": "hush"}}, "into the table secrets"),
        ({"client": {"ssl.key.pem": "hush"}}, "into the table secrets"),
        ({"client": "x"}, "a table of settings"),
        ({"secrets": {"sasl.password": ["hush"]}}, "a table of settings"),
        ({"secrets": {"group.id": "hush"}}, "ssl and sasl are"),
        ({"client": {"sasl.passwd": "hush"}}, "sasl.passwd is not passed on"),
        ({"client": {"sasl.username": "a"}, "secrets": {"sasl.username": "a"}}, "leave one out"),
        ({"topcis": "x"}, "did you mean topics?"),
        ({"assignment": "sticky"}, "cooperative"),
    ],
)
def test_says_what_is_wrong(changes: dict[str, Any], sentence: str) -> None:
    said = refusal(**changes)
    assert sentence in said
    assert "hush" not in said


def test_a_secret_is_shown_to_nobody() -> None:
    found = chosen(security="sasl_ssl", secrets={"sasl.password": "hush", "sasl.username": "anna"})
    assert "hush" not in str(shown(found))
    assert isinstance(found.settings, KafkaSettings)
    assert found.settings.consumer()["sasl.password"] == "hush"


def test_plaintext_to_other_machines_must_be_asked_for() -> None:
    assert (
        settings(servers=["broker:9092"], security="plaintext").connection()["security.protocol"]
        == "plaintext"
    )
    assert settings(servers=["broker:9092"], security="ssl").connection()["security.protocol"] == "ssl"
