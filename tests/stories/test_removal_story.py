"""A poisoned source is removed: a real banditd and Valkey, two sources, learners killed on the way."""

from __future__ import annotations

import base64
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from bandit.client import Client
from bandit.log import REWARDS, START, Append
from bandit.spec.parse import parse_yaml
from server.store.embedded import Embedded
from server.store.redis import RedisStore
from tests.conftest import PATIENT_S
from tests.double.command import SPEC, Command, Done
from tests.service import Service, until

PATIENCE_S = 120.0
DECISIONS, REPEATS = 300, 40_000


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Embedded]:
    with Embedded(tmp_path / "kept") as embedded:
        yield embedded


def body(token: bytes, value: bool) -> bytes:
    return json.dumps(
        {"token": base64.b64encode(token).decode(), "metric": "helpful", "value": float(value)}
    ).encode()


def helpful(client: Client) -> dict[str, tuple[int, int]]:
    """Rewards and their sum by arm, as the status has them."""
    found = {}
    for arm in client.status("answers").arms:
        (metric,) = [each for each in arm.metrics if each.metric == "helpful"]
        found[arm.arm] = metric.n, round(metric.n * metric.mean)
    return found


def p_best(client: Client) -> dict[str, float]:
    return {arm.arm: arm.p_best for arm in client.status("answers").arms}


def ends(client: Client) -> dict[str, tuple[int, int, int]]:
    """Applied, conflicting and rejected rewards by source."""
    return {
        row.source: (row.rewards.applied, row.rewards.conflict, row.rewards.rejected)
        for row in client.status("answers").sources
    }


@pytest.mark.timeout(400)
def test_a_poisoned_source_is_taken_back_exactly(tmp_path: Path, valkey: Embedded) -> None:
    config, lines = tmp_path / "banditd.toml", tmp_path / "rewards.jsonl"
    lines.touch()
    config.write_text(
        f"""
[[sources]]
name = "bots"
kind = "jsonl"
path = "{lines}"
look_s = 0.05

[[sources]]
name = "events"
kind = "redis_stream"
url = "{valkey.url}"
stream = "rewards"
"""
    )
    service = Service(tmp_path / "state", "--store", valkey.url, "--config", str(config))
    with (
        closing(redis.Redis.from_url(valkey.url, protocol=2)) as stream,
        closing(RedisStore(valkey.url, timeout_s=PATIENT_S)) as store,
        service,
        service.client() as client,
    ):
        client.create(parse_yaml(SPEC + "event_retention: 1h\n"))
        client.start("answers")
        until(
            lambda: (
                {client.decide("answers", f"probe-{number}").arm for number in range(30)} == {"old", "new"}
            ),
            PATIENCE_S,
            "both arms serve",
        )
        decided = [client.decide("answers", f"unit-{number}") for number in range(DECISIONS)]
        honest = [number % 5 == 0 for number in range(DECISIONS)]
        wanted: dict[str, list[int]] = {}
        for decision, value in zip(decided, honest, strict=True):
            row = wanted.setdefault(decision.arm, [0, 0])
            row[0], row[1] = row[0] + 1, row[1] + value

        # Poison comes first for the even decisions, second for the others: an honest one is a conflict, or a poisoned.
        with lines.open("ab") as file:
            file.write(
                b"".join(body(decided[at].token, not honest[at]) + b"\n" for at in range(0, DECISIONS, 2))
            )
        until(lambda: ends(client).get("bots", (0,))[0] == DECISIONS // 2, PATIENCE_S, "poison is counted")
        for at in range(DECISIONS):
            stream.xadd("rewards", {"event": body(decided[at].token, honest[at])})
        until(lambda: sum(ends(client).get("events", (0, 0))[:2]) == DECISIONS, PATIENCE_S, "all is counted")
        with lines.open("ab") as file:
            file.write(
                b"".join(body(decided[at].token, not honest[at]) + b"\n" for at in range(1, DECISIONS, 2))
            )
        until(lambda: sum(ends(client)["bots"]) == DECISIONS, PATIENCE_S, "late poison is counted")
        assert ends(client) == {"bots": (150, 150, 0), "events": (150, 150, 0)}
        assert helpful(client) != {arm: tuple(row) for arm, row in wanted.items()}
        poisoned = p_best(client)

        # Repeats make the log long enough for a learner to be killed in the middle of folding it anew.
        entry = next(
            each for each in store.read({"answers": START}, 1000, 0)["answers"] if each.kind == REWARDS
        )
        for _ in range(0, REPEATS, 5000):
            store.append([Append("answers", entry.uid, entry.kind, entry.payload)] * 5000)
        until(
            lambda: sum(ends(client).get("grpc", (0,))) + _duplicates(client) >= REPEATS,
            PATIENCE_S,
            "repeats",
        )
        done: list[Done] = []
        ctl = Command(service.listen)
        removing = threading.Thread(
            target=lambda: done.append(
                ctl("ingest", "remove", "answers", "--source", "bots", "--yes", "--reason", "bots",
                    "--timeout", f"{PATIENCE_S:g}", "--json")
            )
        )  # fmt: skip
        removing.start()
        until(lambda: "rebuild_begun" in service.log.read_text(), PATIENCE_S, "the ledger is being made anew")
        for pid in [pid for pid, each in service.processes().items() if "--child learn" in each]:
            os.kill(pid, signal.SIGKILL)
        removing.join(PATIENCE_S)
        (told,) = done
        assert told.code == 0, told.err
        assert [service.log.read_text().count(event) for event in ("rebuild_begun", "rebuild_done")] == [2, 1]
        answer: Any = told.document
        assert answer["removal"]["counted"] in (300, "300")
        assert helpful(client) == {arm: tuple(row) for arm, row in wanted.items()}
        assert ends(client)["events"] == (DECISIONS, 0, 0)
        assert ends(client)["bots"] == (0, 0, DECISIONS)
        assert p_best(client) != poisoned
        with lines.open("ab") as file:
            file.write(body(client.decide("answers", "unit-x").token, True) + b"\n")
        until(lambda: ends(client)["bots"] == (0, 0, DECISIONS + 1), PATIENCE_S, "what comes is rejected")
        assert "removed from answers" in ctl("ingest", "status").out

        # Deleting leaves nothing of either ledger.
        client.pause("answers", "over")
        client.delete("answers")
        left = [
            key for key in stream.scan_iter("*{answers}*") if b":past" not in key and b":deletion" not in key
        ]
        assert [key for key in left if b":secured" not in key and b":reply:" not in key] == []


def _duplicates(client: Client) -> int:
    return client.status("answers").rewards.duplicate
