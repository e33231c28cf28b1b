"""Statuses: what the learner said with the state of now; streams that change, beat, end, and hold nothing back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import grpc
import pytest

from bandit.rollout.transitions import roll_back, update
from bandit.v1 import experiment_pb2
from bandit.v1 import experiment_service_pb2 as pb
from server.clock import SystemClock
from server.rpc.statuses import StatusReader, overlaid
from server.rpc.watch import Watcher
from server.store.base import Stored
from server.store.memory import MemoryStore
from tests.builders import NOW, spec
from tests.fakes import FakeClock
from tests.serving import (
    Faulty,
    Serving,
    code_of,
    commit,
    in_thread,
    load,
    put_draft,
    put_running,
    reshare,
    serving,
    until,
)

NAME = "experiments/answers"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(now_ms=NOW + 3000)


@pytest.fixture
def store(clock: FakeClock) -> Faulty:
    made = Faulty(MemoryStore(clock.now_ms))
    made.beat("learner", 3_600_000)
    return made


@pytest.fixture
def reader(store: Faulty, clock: FakeClock) -> StatusReader:
    return StatusReader(store, clock)


def publish(store: Any, now: Stored, judged_ms: int = NOW + 2500) -> experiment_pb2.ExperimentStatus:
    """What a learner would publish."""
    status = experiment_pb2.ExperimentStatus(
        name=NAME, epoch=now.experiment.epoch, exposures=600, exposures_lost=2, log_entries_behind=3, periods=4,
        etag="old", state=experiment_pb2.EXPERIMENT_STATE_DRAFT,
        rewards=experiment_pb2.RewardCounts(applied=11, duplicate=1),
        verdicts=[experiment_pb2.Verdict(guardrail="g", n=5)], requests_more=900.0,
        budget=experiment_pb2.BudgetStatus(metric="cost", spent=3.0),
    )  # fmt: skip
    status.evaluation_time.FromMilliseconds(judged_ms)
    for arm in now.experiment.spec.arms:
        status.arms.add(arm=arm.name, exposures=200, p_best=0.25, share_ppm=1)
    fence = store.acquire("answers", "learner", 60_000)
    assert store.put_status("answers", status.SerializeToString(), fence)
    return status


# --- statuses ---


def test_a_draft_that_no_learner_saw_has_zeros(reader: StatusReader, store: Faulty) -> None:
    put_draft(store)
    status = reader.read("answers")
    assert status.name == NAME
    assert status.state == experiment_pb2.EXPERIMENT_STATE_DRAFT
    assert status.etag == load(store).experiment.etag
    assert [arm.arm for arm in status.arms] == ["control", "small", "large"]
    assert [arm.control for arm in status.arms] == [True, False, False]
    assert [arm.share_ppm for arm in status.arms] == [1_000_000, 0, 0]
    assert [(arm.floor_ppm, arm.cap_ppm) for arm in status.arms][1] == (20_000, 1_000_000)
    assert [metric.metric for metric in status.arms[0].metrics] == ["satisfied", "cost"]
    assert (status.exposures, status.rewards.applied, len(status.verdicts), list(status.warnings)) == (
        0,
        0,
        0,
        [],
    )
    assert status.arms[1].state.name == f"{NAME}/arms/small"


def test_numbers_are_the_learners_and_the_state_is_of_now(reader: StatusReader, store: Faulty) -> None:
    now = put_running(store)
    publish(store, now)
    moved = roll_back(
        now.experiment, now.allocation, 1, actor="g", reason="r", rollback_id="9", now_ms=NOW + 2600
    )
    now = commit(store, now, moved)
    status = reader.read("answers")
    assert (status.exposures, status.exposures_lost, status.log_entries_behind, status.periods) == (
        600,
        2,
        3,
        4,
    )
    assert (status.rewards.applied, status.verdicts[0].guardrail) == (11, "g")
    assert [arm.p_best for arm in status.arms] == [0.25] * 3
    assert status.state == experiment_pb2.EXPERIMENT_STATE_RUNNING
    assert status.etag == now.experiment.etag
    assert [arm.share_ppm for arm in status.arms] == [700_000, 0, 300_000]
    assert list(status.allocation.shares_ppm) == [700_000, 0, 300_000]
    assert status.arms[1].state.rollback.id == "9"
    assert not status.warnings


def test_numbers_of_an_ended_epoch_are_not_shown_as_of_this_one(reader: StatusReader, store: Faulty) -> None:
    now = put_running(store)
    publish(store, now)
    names = ("control", "small", "large")
    arms = [{"name": name, "control": name == "control", "digest": f"sha256:new-{name}"} for name in names]
    moved = update(now.experiment, now.allocation, spec(arms=arms), NOW + 2600)
    assert moved is not None
    commit(store, now, moved)
    status = reader.read("answers")
    assert (status.epoch, status.exposures, len(status.verdicts)) == (2, 0, 0)
    assert not status.HasField("requests_more")
    assert not status.HasField("budget")
    assert [(arm.arm, arm.exposures, arm.p_best) for arm in status.arms] == [(name, 0, 0) for name in names]
    assert status.rewards.applied == 11, "counted since the experiment exists"


def test_arms_that_do_not_fit_are_not_overlaid(store: Faulty) -> None:
    now = put_running(store)
    published = publish(store, now)
    del published.arms[2]
    assert [arm.exposures for arm in overlaid(published, now).arms] == [0, 0, 0]


def test_a_status_that_cannot_be_read_is_a_warning(reader: StatusReader, store: Faulty) -> None:
    put_running(store)
    store.instead["status"] = lambda name: b"\xff\xff\xff"
    status = reader.read("answers")
    assert "cannot be read" in status.warnings[0]
    assert len(status.arms) == 3


def test_silence_is_a_warning(reader: StatusReader, store: Faulty, clock: FakeClock) -> None:
    now = put_running(store)
    publish(store, now)
    clock.advance(14.0)
    assert not reader.read("answers").warnings
    clock.advance(2.0)
    (warning,) = reader.read("answers").warnings
    assert "15 s or more" in warning
    clock.advance(7200)
    (warning,) = reader.read("answers").warnings
    assert "no learner is alive" in warning


def test_a_learner_whose_clock_is_ahead_is_not_silent(reader: StatusReader, store: Faulty) -> None:
    publish(store, put_running(store), judged_ms=NOW + 60_000)
    assert not reader.read("answers").warnings


def test_a_draft_needs_no_learner_to_have_judged(
    reader: StatusReader, store: Faulty, clock: FakeClock
) -> None:
    put_draft(store)
    clock.advance(1000)
    assert not reader.read("answers").warnings


# --- watching ---


@pytest.fixture
def watched(clock: FakeClock) -> Iterator[tuple[Faulty, Watcher]]:
    store = Faulty(MemoryStore())
    store.beat("learner", 3_600_000)
    put_running(store)
    watcher = Watcher(StatusReader(store, clock), SystemClock(), check_s=0.005)
    yield store, watcher
    watcher.stop()


def following(stream: Iterator[Any]) -> Any:
    return next(status for status in stream if status is not None)


def test_the_present_status_comes_first_then_changes(watched: tuple[Faulty, Watcher]) -> None:
    store, watcher = watched
    stream = watcher.watch("answers")
    assert following(stream).allocation.number == 3
    assert next(stream) is None, "nothing changed"
    reshare(store, load(store), (0, 500_000, 500_000))
    assert list(following(stream).allocation.shares_ppm) == [0, 500_000, 500_000]
    assert next(stream) is None
    publish(store, load(store))
    assert following(stream).exposures == 600
    publish(store, load(store), judged_ms=NOW + 9000)  # the same again, only judged later
    looks = store.calls.count("status")
    until(lambda: store.calls.count("status") >= looks + 2)
    assert next(stream) is None


def test_it_beats_when_nothing_changes(watched: tuple[Faulty, Watcher]) -> None:
    _, watcher = watched
    stream = watcher.watch("answers", heartbeat_s=0.05)
    first = following(stream)
    began = time.monotonic()
    assert following(stream) == first
    assert time.monotonic() - began >= 0.04


def test_it_ends_when_the_experiment_is_deleted(watched: tuple[Faulty, Watcher]) -> None:
    from bandit.errors import NotFound

    store, watcher = watched
    stream = watcher.watch("answers")
    following(stream)
    store.delete("answers", load(store).generation)
    with pytest.raises(NotFound):
        following(stream)
    with pytest.raises(NotFound):
        following(watcher.watch("answers"))
    put_draft(store)
    assert following(watcher.watch("answers")).state == experiment_pb2.EXPERIMENT_STATE_DRAFT


def test_a_store_that_is_away_interrupts_nothing(watched: tuple[Faulty, Watcher]) -> None:
    store, watcher = watched
    stream = watcher.watch("answers", heartbeat_s=0.02)
    first = following(stream)
    store.broken.add("all")
    assert following(stream) == first
    store.broken.clear()
    reshare(store, load(store), (0, 500_000, 500_000))
    until(lambda: following(stream).allocation.number == 4)


def test_many_streams_read_the_store_once(watched: tuple[Faulty, Watcher]) -> None:
    store, watcher = watched
    streams = [watcher.watch("answers") for _ in range(20)]
    for stream in streams:
        following(stream)
    store.calls.clear()
    began = time.monotonic()
    until(lambda: store.calls.count("status") >= 10)
    checks = (time.monotonic() - began) / 0.005
    assert store.calls.count("status") <= checks + 2
    reshare(store, load(store), (0, 500_000, 500_000))
    assert {following(stream).allocation.number for stream in streams} == {4}
    for stream in streams:
        stream.close()  # type: ignore[attr-defined]
    until(lambda: watcher._thread is None, what="the thread ends with the last stream")
    assert not watcher._watched


def test_a_stream_that_nobody_reads_holds_one_status(watched: tuple[Faulty, Watcher]) -> None:
    store, watcher = watched
    slow = watcher.watch("answers")
    following(slow)
    quick = watcher.watch("answers")
    following(quick)

    def held(number: int) -> bool:
        return watcher._watched["answers"].status.allocation.number == number

    for number in range(4, 40):
        reshare(store, load(store), (0, 500_000, 500_000))
        until(partial(held, number))
    assert following(slow).allocation.number == 39, "the newest, not the next"
    assert next(slow) is None


def test_over_the_wire(clock: FakeClock) -> None:
    store = MemoryStore()
    put_running(store)
    with serving(store) as served:
        stream = served.operate.WatchStatus(pb.WatchStatusRequest(name=NAME))
        assert next(stream).status.allocation.number == 3
        reshare(store, load(store), (0, 500_000, 500_000))
        assert next(stream).status.allocation.number == 4
        stream.cancel()
        until(lambda: not served.experiments.watcher._watched, what="a cancelled stream leaves")
        other = served.operate.WatchStatus(pb.WatchStatusRequest(name=NAME))
        next(other)
        store.delete("answers", load(store).generation)
        assert code_of(lambda: list(other)) == grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.RpcError):
            next(served.operate.WatchStatus(pb.WatchStatusRequest(name="experiments/none")))


def test_stopping_the_server_ends_the_streams() -> None:
    store = MemoryStore()
    put_running(store)
    ended = threading.Event()
    codes: list[grpc.StatusCode] = []
    began = 0.0
    with serving(store) as served:

        def follow(served: Serving = served) -> None:
            codes.append(code_of(lambda: list(served.operate.WatchStatus(pb.WatchStatusRequest(name=NAME)))))
            ended.set()

        thread = in_thread(follow)
        until(lambda: served.experiments.watcher._watched)
        began = time.monotonic()
        served.server.stop(90.0)
    assert time.monotonic() - began < 45, "not by waiting for the end of the grace"
    assert ended.wait(20)
    assert codes == [grpc.StatusCode.UNAVAILABLE], "so that it watches again"
    thread.join(5)
