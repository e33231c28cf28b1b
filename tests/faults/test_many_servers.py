"""Several servers on one store: a rollback happens once however many see its cause, and a fleet comes back gently.

Faults 24 and 29, invariants I5 and I7.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from bandit.errors import Stale, StoreUnavailable
from bandit.rollout.audit import first_broken
from bandit.rollout.transitions import audit_record, roll_back
from server.store.base import Commit, Fence, Store, Stored
from server.store.memory import MemoryStore
from tests.conftest import Kept as KeptStore
from tests.fakes import FakeClock
from tests.hammer import at_once
from tests.serving import Faulty, load, put_draft, put_running
from tests.shelves import Kept
from tests.stores import following

SERVERS = 5


def judged(store: Store, seen: Stored, judge: int, fence: Fence | None) -> int:
    """What a judge does that saw a breach: one commit of a rollback with its audit record."""
    moved = roll_back(
        seen.experiment,
        seen.allocation,
        1,
        actor="guardrail/limit",
        reason=f"seen by judge {judge}",
        rollback_id=f"{judge}",
        now_ms=store.now_ms(),
    )
    record = audit_record(
        (seen.experiment, seen.allocation),
        moved,
        actor="guardrail/limit",
        sequence=seen.audit_sequence,
        previous_hash=seen.audit_hash,
        now_ms=store.now_ms(),
    )
    return store.commit(Commit(seen.generation, moved.experiment, moved.allocation, record, fence))


@pytest.mark.parametrize("kept", ["memory", "valkey"], indirect=True)
def test_five_judges_at_once_make_one_rollback(kept: KeptStore, full: bool) -> None:
    """Each read the same state, each with the right to write as far as it knows, all commit at the same moment."""
    store = kept.store
    name = put_draft(store).experiment.name
    trials, decided = 1000 if full else 100, 0
    for _ in range(trials):
        now = load(store, name)
        version = store.version()
        outcomes = at_once(SERVERS, lambda judge, now=now: judged(store, now, judge, None))  # type: ignore[misc]
        done = [outcome for outcome in outcomes if isinstance(outcome, int)]
        # A machine that is very busy lets calls run out of time; what they meant to do is then not done, or done once.
        assert all(isinstance(each, int | Stale | StoreUnavailable) for each in outcomes), outcomes
        after = load(store, name)
        assert after.generation - now.generation == after.audit_sequence - now.audit_sequence <= 1
        assert len(done) <= 1
        if done:
            decided += 1
            assert done == [after.generation] == [now.generation + 1]
            assert store.version() > version
            assert store.audit(name, None, 2)[0].reason == f"seen by judge {outcomes.index(done[0])}"
        store.delete(name, after.generation)
        put_draft(store, name)
    assert decided > trials * 0.9
    records = store.audit(name, None, 10)
    assert first_broken(list(reversed(records))) is None


@pytest.mark.parametrize("kept", ["memory", "valkey"], indirect=True)
def test_a_judge_whose_lease_went_on_changes_nothing(kept: KeptStore, full: bool) -> None:
    """Fault 25: it slept between its look and its commit, and another became the judge meanwhile."""
    store = kept.store
    for trial in range(200 if full else 10):
        name = f"e{trial}"
        seen = put_draft(store, name)
        asleep = store.acquire(name, "asleep", 50)
        assert asleep is not None
        kept.pass_ms(60)
        awake = store.acquire(name, "awake", 60_000)
        assert awake is not None
        with pytest.raises(Stale):
            judged(store, seen, 0, asleep)
        assert load(store, name) == seen
        assert judged(store, seen, 1, awake) == seen.generation + 1
        with pytest.raises(Stale):
            store.commit(following(load(store, name), fence=asleep))


class Counted(Faulty):
    """A store that notes in which tenth of a second of the shared clock it was called."""

    def __init__(self, store: object, clock: FakeClock, tenths: Counter[int]) -> None:
        super().__init__(store)
        self._clock = clock
        self._tenths = tenths

    def __getattr__(self, name: str) -> object:
        self._tenths[int(self._clock.monotonic_s() * 10)] += 1
        return super().__getattr__(name)


class Loop:
    """One server's keeper, turned by the shared clock in the place of its own thread."""

    def __init__(self, store: Counted, clock: FakeClock, folder: Path, draw: random.Random) -> None:
        self.kept = Kept(store, clock, folder, uniform=draw.random)  # type: ignore[arg-type]
        self.kept.restore()
        self.due_s = clock.monotonic_s() + self.kept.keeper.first_pause()

    def turn(self, now_s: float) -> None:
        """Its turn, if it is due."""
        if now_s >= self.due_s:
            self.due_s = now_s + self.kept.keeper.turn()
            self.kept.shelf.save()


def test_a_fleet_that_restarts_at_once_is_no_herd(tmp_path: Path) -> None:
    """Fifty servers: calls in any tenth of a second at most three times those of the busiest quiet one."""
    clock = FakeClock()
    memory = MemoryStore(clock.now_ms)
    memory.beat("learner", 1 << 40)
    for index in range(30):
        put_running(memory, f"e{index}")
    draw = random.Random(29)
    tenths: Counter[int] = Counter()
    stores = [Counted(memory, clock, tenths) for _ in range(50)]

    def start() -> list[Loop]:
        return [Loop(store, clock, tmp_path / f"s{at}", draw) for at, store in enumerate(stores)]

    def run(loops: list[Loop], for_s: float) -> list[int]:
        began = clock.monotonic_s()
        while clock.monotonic_s() < began + for_s:
            clock.advance(0.01)
            for loop in loops:
                loop.turn(clock.monotonic_s())
        return [tenths[tenth] for tenth in range(int(began * 10) + 1, int((began + for_s) * 10))]

    loops = start()
    run(loops, 10.0)
    for loop in loops:
        loop.due_s = clock.monotonic_s() + 0.75 * draw.random()  # as servers that began on different days
    run(loops, 1.0)
    quiet = run(loops, 10.0)
    assert sum(quiet) > 1000
    for loop in loops:
        loop.kept.shelf.stop()
    loops = start()  # all of them in the same moment
    again = run(loops, 5.0)
    assert all(loop.kept.keeper.counts.polls for loop in loops)
    assert max(again) <= 3 * max(quiet), (again, quiet)
    for store, loop in zip(stores, loops, strict=True):
        store.broken.add("all")
        loop.due_s = clock.monotonic_s()  # every connection breaks at once
    away = run(loops, 30.0)
    assert sum(away[100:]) / 20 <= sum(quiet) / 10, "a store that is away is asked less, not more"
    for store in stores:
        store.broken.clear()
    back = run(loops, 5.0)
    assert max(back) <= 3 * max(quiet), (back, quiet)
    for loop in loops:
        loop.kept.shelf.stop()
