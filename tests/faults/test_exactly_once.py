"""Rewards, parts of sums and corrections, each sent one to three times over two connections in random order, the server
killed in between: the ledger equals an independent count of integers exactly."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from pathlib import Path

import pytest

from bandit.client import Client
from bandit.client.connection import split_tokens
from bandit.errors import BanditError
from bandit.ledger import S1, S2_HIGH, S2_LOW, N, quantise
from bandit.v1 import reward_service_pb2 as wire
from server.store.embedded import Embedded
from server.store.redis import RedisStore
from tests.builders import spec
from tests.service import Service, until

DECISIONS = 100_000
ANSWERED = {wire.REWARD_OUTCOME_ACCEPTED, wire.REWARD_OUTCOME_APPLIED, wire.REWARD_OUTCOME_DUPLICATE}
Key = tuple[str, str]


def decide_all(client: Client) -> list[tuple[bytes, str]]:
    """(token, arm) of every decision."""
    out: list[tuple[bytes, str]] = []
    for start in range(0, DECISIONS, 5000):
        reply = client.decide_batch("answers", [f"u{n}" for n in range(start, start + 5000)])
        out += zip(split_tokens(reply), (reply.arms[index] for index in reply.arm_indexes), strict=True)
    return out


def send(service: Service, batches: list[list[wire.RewardEvent]], progress: list[int], lane: int) -> None:
    """Send each batch until it is answered, through kills and restarts."""
    with service.client(timeout_s=5) as client:
        for batch in batches:
            deadline = time.monotonic() + 120
            while True:
                try:
                    results = client.report_rewards(batch)
                except BanditError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.1)
                    continue
                assert {result.outcome for result in results} <= ANSWERED
                break
            progress[lane] += 1


@pytest.mark.timeout(420)
def test_two_hundred_thousand_rewards_through_a_kill(tmp_path: Path) -> None:
    chance = random.Random(2024)
    data_dir = tmp_path / "kept"
    service = Service(data_dir)
    with service:
        with service.client() as client:
            client.create(spec(metrics=long_windows(), bounds={"floor": 0.2, "control_floor": 0.2}))
            client.start("answers")
            until(
                lambda: min(arm.share_ppm for arm in client.status("answers").arms) > 0,
                30,
                "shares for every arm",
            )
            decisions = decide_all(client)
        expected: dict[Key, list[int]] = defaultdict(lambda: [0, 0, 0])
        events: list[wire.RewardEvent] = []
        told = 0
        for place, (token, arm) in enumerate(decisions):
            messages, values = story_of(place, token, chance)
            told += len(messages)
            for message in messages:
                events += [message] * chance.randint(1, 3)
            both = values.get("satisfied", 0) * values["cost"] >> 30 if "cost" in values else None
            for column, scaled in [*values.items(), ("both", both)]:
                if scaled is not None:
                    cell = expected[arm, column]
                    cell[0] += 1
                    cell[1] += scaled
                    cell[2] += scaled * scaled
        assert told > 2 * DECISIONS + DECISIONS // 10
        chance.shuffle(events)
        batches = [events[start : start + 500] for start in range(0, len(events), 500)]
        progress = [0, 0]
        lanes = [
            threading.Thread(target=send, args=(service, batches[lane::2], progress, lane), daemon=True)
            for lane in (0, 1)
        ]
        for lane in lanes:
            lane.start()
        until(lambda: sum(progress) > len(batches) // 4, 120, "a quarter sent")
        assert service.kill("--child serve")
        until(
            lambda: sum(progress) > len(batches) // 2, 120, "half sent after the serving process was killed"
        )
        assert service.kill("--child learn")
        service.kill_all()
        service.start()
        for thread in lanes:
            thread.join(180)
            assert not thread.is_alive()
        with service.client() as client:

            def taken() -> int:
                counts = client.status("answers").rewards
                return counts.applied + counts.superseded

            until(
                lambda: taken() + client.status("answers").rewards.duplicate >= len(events), 60, "all folded"
            )
            status = client.status("answers")
            assert status.exposures_lost == 0
            assert status.exposures == DECISIONS
            assert status.rewards.conflict == status.rewards.late == status.rewards.rejected == 0
            # A repeat of what a correction stands before counts as superseded again; a first one never as a repeat.
            assert status.rewards.duplicate <= len(events) - told + status.rewards.superseded
            assert status.rewards.applied <= told
    store = Embedded(data_dir / "store" if (data_dir / "store").exists() else data_dir)
    store.start()
    try:
        kept = RedisStore(store.url)
        state = kept.load_writer("answers")
        kept.close()
    finally:
        store.stop()
    assert state is not None
    totals = state.ledger.totals()
    names, metrics = ["control", "small", "large"], ["satisfied", "cost", "spend", "both"]
    for (arm, metric), (n, s1, s2) in expected.items():
        cell = totals.sums[:, names.index(arm), metrics.index(metric)].sum(axis=0)
        counted = (int(cell[N]), int(cell[S1]), int(cell[S2_HIGH]) * 2**30 + int(cell[S2_LOW]))
        assert counted == (n, s1, s2), (arm, metric)


def story_of(
    place: int, token: bytes, chance: random.Random
) -> tuple[list[wire.RewardEvent], dict[str, int]]:
    """What is told of a decision, in any order, and the scaled values that it comes to."""
    bit, cost = float(chance.random() < 0.3), chance.random() * 2
    told = [
        wire.RewardEvent(token=token, metric="satisfied", value=bit),
        wire.RewardEvent(token=token, metric="cost", value=cost),
    ]
    values = {"satisfied": quantise(bit, 0, 1), "cost": quantise(cost, 0, 2)}
    if place % 10 == 0:  # corrected twice, the second time for good
        for sequence, right in ((1, chance.random() * 2), (2, chance.random() * 2)):
            operation = wire.REWARD_OPERATION_CORRECT
            told.append(
                wire.RewardEvent(
                    token=token, metric="cost", value=right, operation=operation, sequence=sequence
                )
            )
            values["cost"] = quantise(right, 0, 2)
    if place % 25 == 1:
        operation = wire.REWARD_OPERATION_RETRACT
        told.append(wire.RewardEvent(token=token, metric="cost", operation=operation, sequence=9))
        del values["cost"]
    if place % 10 == 3:
        parts = [chance.random() for _ in range(3)]
        told += [
            wire.RewardEvent(token=token, metric="spend", value=part, event_id=f"item {index}")
            for index, part in enumerate(parts)
        ]
        values["spend"] = sum(quantise(part, 0, 4) for part in parts)
    return told, values


def long_windows() -> list[dict[str, object]]:
    """The metrics of the builders with windows that outlast the test."""
    return [
        {"name": "satisfied", "kind": "bernoulli", "direction": "maximize", "attribution_window": "1d"},
        {
            "name": "cost",
            "kind": "gaussian",
            "direction": "minimize",
            "range": [0.0, 2.0],
            "attribution_window": "1d",
        },
        {
            "name": "spend",
            "kind": "gaussian",
            "direction": "maximize",
            "range": [0.0, 4.0],
            "aggregate": "sum",
            "attribution_window": "1d",
        },
    ]
