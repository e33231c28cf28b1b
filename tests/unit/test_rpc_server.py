"""The server around the services: pools, limits, health, reflection, and answers to bugs that say nothing."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from bandit.v1 import decision_service_pb2 as dpb
from bandit.v1 import decision_service_pb2_grpc
from bandit.v1 import experiment_service_pb2 as epb
from bandit.v1 import reward_service_pb2 as rpb
from server.rpc.decisions import Decisions
from server.rpc.server import SERVICES, Limits
from server.rpc.status import INTERNAL_TEXT
from server.store.memory import MemoryStore
from tests.serving import Faulty, Serving, code_of, details_of, in_thread, put_running, serving, until

Code = grpc.StatusCode
DECIDE = dpb.DecideRequest(experiment="experiments/answers", unit="u")


class Seen:
    """Telemetry that remembers."""

    def __init__(self) -> None:
        self.ended: Counter[tuple[str, str]] = Counter()

    def rpc(self, method: str, code: str, seconds: float) -> None:
        assert 0 <= seconds < 60
        self.ended[method, code] += 1


def health_of(served: Serving, service: str = "") -> int:
    stub: Any = health_pb2_grpc.HealthStub(served.channel)  # its types know no methods
    status: int = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status
    return status


def test_health_follows_the_first_snapshot_and_not_the_store() -> None:
    store = Faulty(MemoryStore())
    put_running(store)
    names = ["", *(service.full_name for service in SERVICES)]
    store.broken.add("version")
    with serving(store, ready=False) as served:
        assert {health_of(served, name) for name in names} == {health_pb2.HealthCheckResponse.NOT_SERVING}
        assert code_of(lambda: served.decide.Decide(DECIDE)) == Code.UNAVAILABLE
        served.keeper.start()
        until(lambda: served.keeper.counts.failed_polls >= 3)
        assert not served.keeper.ready.is_set()
        store.broken.clear()
        until(served.keeper.ready.is_set)
        served.server.serving()
        assert {health_of(served, name) for name in names} == {health_pb2.HealthCheckResponse.SERVING}
        store.broken.add("all")
        until(lambda: served.keeper.counts.failed_polls >= 6)
        assert health_of(served) == health_pb2.HealthCheckResponse.SERVING
        assert served.decide.Decide(DECIDE).counted
        served.keeper.stop()


def test_reflection_is_off_unless_asked_for() -> None:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    for on in (False, True):
        with serving(reflection=on) as served:
            stub: Any = reflection_pb2_grpc.ServerReflectionStub(served.channel)
            asked = threading.Event()

            def requests(asked: threading.Event = asked) -> Iterator[reflection_pb2.ServerReflectionRequest]:
                yield request
                asked.wait(60)

            replies = stub.ServerReflectionInfo(requests())
            if not on:
                assert code_of(partial(next, replies)) == Code.UNIMPLEMENTED
                asked.set()
                continue
            names = {service.name for service in next(replies).list_services_response.service}
            assert next(pool for pool in served.server.pools if pool.name == "stream").in_flight == 1
            asked.set()
            assert {service.full_name for service in SERVICES} <= names


def test_a_bug_is_answered_as_internal_and_its_text_stays_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = Seen()

    def fail(*_: object) -> None:
        raise RuntimeError("the password is swordfish")

    monkeypatch.setattr(Decisions, "_serving", fail)
    with serving(telemetry=seen) as served:
        with pytest.raises(grpc.RpcError) as caught:
            served.decide.Decide(DECIDE)
        failed: Any = caught.value
        assert (failed.code(), failed.details()) == (Code.INTERNAL, INTERNAL_TEXT)
        assert "swordfish" not in repr(failed)
        stream = served.decide.DecideStream(iter([dpb.DecideStreamRequest(request=DECIDE)]))
        assert code_of(lambda: next(stream)) == Code.INTERNAL
        until(lambda: seen.ended == {("Decide", "INTERNAL"): 1, ("DecideStream", "INTERNAL"): 1})
    assert "swordfish" in capsys.readouterr().out


def test_every_rpc_is_counted_with_its_code() -> None:
    seen, store = Seen(), MemoryStore()
    put_running(store)
    with serving(store, telemetry=seen) as served:
        served.decide.Decide(DECIDE)
        code_of(lambda: served.decide.Decide(dpb.DecideRequest(experiment="experiments/none", unit="u")))
        code_of(lambda: served.decide.Decide(dpb.DecideRequest(experiment="experiments/answers")))
        list(served.decide.DecideStream(iter([dpb.DecideStreamRequest(request=DECIDE)] * 3)))
        code_of(lambda: served.operate.GetExperiment(epb.GetExperimentRequest(name="experiments/none")))
        watch = served.operate.WatchStatus(epb.WatchStatusRequest(name="experiments/answers"))
        next(watch)
        watch.cancel()
        until(lambda: sum(seen.ended.values()) == 6)
    assert seen.ended == {
        ("Decide", "OK"): 1,
        ("Decide", "NOT_FOUND"): 1,
        ("Decide", "INVALID_ARGUMENT"): 1,
        ("DecideStream", "OK"): 1,
        ("GetExperiment", "NOT_FOUND"): 1,
        ("WatchStatus", "CANCELLED"): 1,
    }


def test_beyond_the_cap_streams_are_refused_and_places_come_back() -> None:
    store = MemoryStore()
    put_running(store)
    with serving(store, limits=Limits(streams=3)) as served:
        pool = next(pool for pool in served.server.pools if pool.name == "stream")

        def watch() -> Any:
            return served.operate.WatchStatus(epb.WatchStatusRequest(name="experiments/answers"))

        for _ in range(5):
            streams = [watch() for _ in range(3)]
            for stream in streams:
                next(stream)
            refusals = [watch() for _ in range(4)]
            for refused in refusals:
                with pytest.raises(grpc.RpcError) as caught:
                    next(refused)
                failed: Any = caught.value
                assert failed.code() == Code.RESOURCE_EXHAUSTED
                assert details_of(failed)["ErrorInfo"].reason == "TOO_MANY_CALLS"
                assert details_of(failed)["RetryInfo"].retry_delay.ToMilliseconds() > 0
            decide = served.decide.DecideStream(iter([dpb.DecideStreamRequest(request=DECIDE)]))
            assert code_of(partial(next, decide)) == Code.RESOURCE_EXHAUSTED
            assert served.decide.Decide(DECIDE).counted
            for stream in streams:
                stream.cancel()
            until(lambda: pool.in_flight == 0)


def test_without_streams_the_rest_works() -> None:
    store = MemoryStore()
    put_running(store)
    with serving(store, limits=Limits(streams=0)) as served:
        watch = served.operate.WatchStatus(epb.WatchStatusRequest(name="experiments/answers"))
        assert code_of(lambda: next(watch)) == Code.RESOURCE_EXHAUSTED
        assert served.decide.Decide(DECIDE).counted


def test_calls_that_wait_for_the_store_hold_no_decision_back() -> None:
    store = Faulty(MemoryStore())
    put_running(store, rewards_without_token=True)
    hang, hanging = threading.Event(), threading.Event()

    def slow(entries: list[Any]) -> list[str]:
        hanging.set()
        hang.wait(20)
        ids: list[str] = store.store.append(entries)
        return ids

    event = rpb.RewardEvent(
        metric="satisfied", value=1.0, experiment="experiments/answers", arm="small", unit="u", event_id="e"
    )
    request = rpb.ReportRewardsRequest(events=[event])
    with serving(store, limits=Limits(reward_threads=4, reward_calls=8)) as served:
        store.instead["append"] = slow
        calls = [served.reward.ReportRewards.future(request) for _ in range(8)]
        assert hanging.wait(10)
        pool = next(pool for pool in served.server.pools if pool.name == "reward")
        until(lambda: pool.in_flight == 8)
        assert code_of(lambda: served.reward.ReportRewards(request)) == Code.RESOURCE_EXHAUSTED
        began = time.monotonic()
        for _ in range(50):
            assert served.decide.Decide(DECIDE, timeout=5).arm
        assert time.monotonic() - began < 5
        assert health_of(served) == health_pb2.HealthCheckResponse.SERVING
        hang.set()
        assert all(call.result().results[0].outcome == rpb.REWARD_OUTCOME_ACCEPTED for call in calls)
        until(lambda: pool.in_flight == 0)
        assert pool.refused == 1
        del store.instead["append"]


def test_a_full_batch_fits_a_message_and_more_is_refused() -> None:
    store = MemoryStore()
    put_running(store)
    with serving(store) as served:
        units = [f"{index:06d}" + "x" * 250 for index in range(10_000)]
        request = dpb.DecideBatchRequest(experiment="experiments/answers", units=units)
        reply = served.decide.DecideBatch(request)
        assert len(reply.arm_indexes) == 10_000
        assert len(reply.tokens) == 650_000
        huge = dpb.DecideBatchRequest(experiment="experiments/answers", units=["x" * 1000] * 5000)
        assert code_of(lambda: served.decide.DecideBatch(huge)) == Code.RESOURCE_EXHAUSTED
        assert served.decide.Decide(DECIDE).counted


def test_a_client_that_reads_nothing_is_cut_off() -> None:
    store = MemoryStore()
    put_running(store)
    with serving(store, limits=Limits(send_s=0.3)) as served:
        pool = next(pool for pool in served.server.pools if pool.name == "stream")

        def requests() -> Iterator[dpb.DecideStreamRequest]:
            while True:
                yield dpb.DecideStreamRequest(request=DECIDE)

        # A window of fixed size: it is full after some hundred replies.
        options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1 << 16)]
        with grpc.insecure_channel(f"127.0.0.1:{served.port}", options) as channel:
            stream = decision_service_pb2_grpc.DecisionServiceStub(channel).DecideStream(requests())
            next(stream)
            assert pool.in_flight == 1
            until(lambda: pool.in_flight == 0, 30.0, "the stream that nobody reads is cut")
            with pytest.raises(grpc.RpcError):
                for _ in stream:
                    pass
        assert served.decide.Decide(DECIDE).counted


def test_a_deadline_that_passed_leaves_no_call_behind() -> None:
    store = Faulty(MemoryStore())
    put_running(store)
    hang = threading.Event()
    with serving(store) as served:
        store.instead["load"] = lambda name: hang.wait(10) and None
        request = epb.GetExperimentRequest(name="experiments/answers")
        assert code_of(lambda: served.operate.GetExperiment(request, timeout=0.1)) == Code.DEADLINE_EXCEEDED
        hang.set()
        pool = next(pool for pool in served.server.pools if pool.name == "operate")
        until(lambda: pool.in_flight == 0)


def test_stop_lets_the_present_calls_end() -> None:
    store = Faulty(MemoryStore())
    put_running(store, rewards_without_token=True)
    hang, entered = threading.Event(), threading.Event()

    def slow(entries: list[Any]) -> list[str]:
        entered.set()
        hang.wait(10)
        ids: list[str] = store.store.append(entries)
        return ids

    event = rpb.RewardEvent(
        metric="satisfied", value=1.0, experiment="experiments/answers", arm="small", unit="u", event_id="e"
    )
    with serving(store) as served:
        store.instead["append"] = slow
        call = served.reward.ReportRewards.future(rpb.ReportRewardsRequest(events=[event]))
        assert entered.wait(5)
        stopper = in_thread(lambda: served.server.stop(5.0))
        until(lambda: code_of(lambda: served.decide.Decide(DECIDE, timeout=1)) == Code.UNAVAILABLE)
        hang.set()
        assert call.result(5).results[0].outcome == rpb.REWARD_OUTCOME_ACCEPTED
        stopper.join(10)
        assert not stopper.is_alive()
        del store.instead["append"]


def test_many_clients_at_once() -> None:
    store = MemoryStore()
    put_running(store)
    with serving(store) as served, ThreadPoolExecutor(16) as pool:

        def decide(index: int) -> tuple[str, str]:
            unit = f"u{index % 50}"
            reply = served.decide.Decide(dpb.DecideRequest(experiment="experiments/answers", unit=unit))
            return unit, reply.arm

        arms: dict[str, set[str]] = {}
        for unit, arm in pool.map(decide, range(2000)):
            arms.setdefault(unit, set()).add(arm)
        assert all(len(each) == 1 for each in arms.values()), "a unit keeps its arm"
        assert served.journal.recorded == 2000
