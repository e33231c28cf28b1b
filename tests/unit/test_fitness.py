"""A store that is not fit forbids learning, at the start and later, is told once; mended it is learnt with again."""

from __future__ import annotations

from typing import Any

import pytest
import structlog

from bandit.errors import StoreUnavailable
from server.control.fitness import Fitness
from server.runtime import LearnerLoop, LoopSettings
from server.store.findings import Finding
from server.store.memory import MemoryStore
from tests.fakes import FakeClock
from tests.learning import Silent
from tests.serving import Faulty, put_running

GOOD = Finding("eviction", "noeviction", "noeviction", True, True)
BAD = Finding("eviction", "allkeys-lru", "noeviction", False, True)
POOR = Finding("memory", "much", "less", False, False)


def test_only_a_fatal_finding_forbids_and_each_change_is_told_once() -> None:
    store: Any = Faulty(MemoryStore())
    clock = FakeClock()
    fitness = Fitness(store, clock, 30.0)
    rows = [GOOD, POOR]
    store.instead["findings"] = lambda: rows
    with structlog.testing.capture_logs() as told:
        fitness.look()
        rows[0] = BAD
        fitness.look()  # not due yet
        clock.advance(30.0)
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="allkeys-lru"):
                fitness.look()
        rows[0] = GOOD
        fitness.look()
    assert [(each["check"], each["log_level"]) for each in told] == [
        ("eviction", "info"),
        ("memory", "warning"),
        ("eviction", "error"),
        ("eviction", "info"),
    ]


def test_a_learner_holds_nothing_while_the_store_is_unfit() -> None:
    clock = FakeClock()
    store: Any = Faulty(MemoryStore(clock.now_ms))
    put_running(store)
    loop = LearnerLoop(store, clock, LoopSettings("learner", block_s=0.0, check_s=1.0), Silent())
    store.instead["findings"] = lambda: [BAD]
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="forbidden"):
            loop.step()
        clock.advance(1.0)
    assert loop.writers == {}
    assert not store.learner_alive()
    store.instead["findings"] = lambda: [GOOD]
    loop.step()
    assert list(loop.writers) == ["answers"]
    assert store.learner_alive()
    store.instead["findings"] = lambda: [BAD]
    clock.advance(2.0)
    with pytest.raises(StoreUnavailable, match="forbidden"):
        loop.step()
