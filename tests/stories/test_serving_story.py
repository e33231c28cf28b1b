"""A serving process on a real store, with a real learner beside it: what callers are told is what is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager

import grpc
import pytest

from bandit.client.convert import spec_to_proto
from bandit.v1 import decision_service_pb2 as dpb
from bandit.v1 import experiment_pb2
from bandit.v1 import experiment_service_pb2 as epb
from bandit.v1 import reward_service_pb2 as rpb
from server.store.embedded import Embedded
from server.store.redis import RedisStore
from tests.builders import spec
from tests.learning import learner
from tests.serving import Serving, code_of, serving, until

NAME = "experiments/answers"
RUNNING = experiment_pb2.EXPERIMENT_STATE_RUNNING


@contextmanager
def service(server: Embedded) -> Iterator[Serving]:
    """One serving process and one learner on the store."""
    with (
        closing(RedisStore(server.url)) as store,
        closing(RedisStore(server.url)) as other,
        learner(other),
        serving(store) as served,
    ):
        yield served


def begin(served: Serving) -> None:
    """An experiment, created and started over the wire, whose challengers have traffic."""
    create = epb.CreateExperimentRequest(spec=spec_to_proto(spec()), request_id="create", actor="anna")
    served.operate.CreateExperiment(create)
    served.operate.StartExperiment(epb.StartExperimentRequest(name=NAME, request_id="start"))
    until(lambda: min(arm.share_ppm for arm in status(served).arms) > 0, 60.0, "shares for every arm")
    number = status(served).allocation.number
    until(lambda: decide(served, "warm").allocation_number >= number, what="the server has read them")


def status(served: Serving) -> experiment_pb2.ExperimentStatus:
    return served.operate.GetStatus(epb.GetStatusRequest(name=NAME)).status


def decide(served: Serving, unit: str) -> dpb.DecideResponse:
    return served.decide.Decide(dpb.DecideRequest(experiment=NAME, unit=unit), timeout=10)


def report(
    served: Serving, tokens: list[bytes], value: float = 1.0, *, wait: bool = True
) -> Counter[rpb.RewardOutcome.ValueType]:
    events = [rpb.RewardEvent(token=token, metric="satisfied", value=value) for token in tokens]
    request = rpb.ReportRewardsRequest(events=events, wait=wait)
    return Counter(result.outcome for result in served.reward.ReportRewards(request, timeout=20).results)


@pytest.mark.slow
def test_a_release_over_the_wire(own_server: Embedded) -> None:
    with service(own_server) as served:
        begin(served)
        singles = [decide(served, f"u{index}") for index in range(200)]
        units = [f"b{index}" for index in range(300)]
        batch = served.decide.DecideBatch(dpb.DecideBatchRequest(experiment=NAME, units=units))
        size = batch.token_size
        tokens = [each.token for each in singles]
        tokens += [batch.tokens[at : at + size] for at in range(0, len(batch.tokens), size)]
        assert len(tokens) == 500

        # What is told is the final outcome: counted once, whatever is sent again.
        assert report(served, tokens[:400]) == {rpb.REWARD_OUTCOME_APPLIED: 400}
        assert report(served, tokens[:400]) == {rpb.REWARD_OUTCOME_DUPLICATE: 400}
        assert report(served, tokens[:100], 0.0) == {rpb.REWARD_OUTCOME_CONFLICT: 100}
        assert report(served, [tokens[0], tokens[499], tokens[499]]) == {
            rpb.REWARD_OUTCOME_APPLIED: 1,
            rpb.REWARD_OUTCOME_DUPLICATE: 2,
        }
        decided = served.journal.recorded
        until(lambda: status(served).exposures == decided, 20.0, "every decision is counted")
        until(lambda: status(served).rewards.duplicate == 402, what="the status has caught up")
        seen = status(served)
        assert (seen.rewards.applied, seen.rewards.conflict) == (401, 100)
        assert (seen.exposures_lost, seen.log_entries_behind, list(seen.warnings)) == (0, 0, [])
        assert sum(metric.n for arm in seen.arms for metric in arm.metrics) == 401

        # A rollback is off the server at once, and told to whoever watches.
        watch = served.operate.WatchStatus(epb.WatchStatusRequest(name=NAME), timeout=30)
        next(watch)
        served.operate.RollBackArm(
            epb.RollBackArmRequest(name=f"{NAME}/arms/small", actor="anna", reason="slow")
        )
        told = next(each.status for each in watch if each.status.arms[1].state.HasField("rollback"))
        assert told.arms[1].share_ppm == 0
        watch.cancel()
        until(lambda: decide(served, "x").allocation_number >= told.allocation.number)
        assert {decide(served, f"u{index}").arm for index in range(200)} == {"control", "large"}

        # A change of arms begins anew; rewards of decisions before it still count where they belong.
        arms = [{"name": n, "control": n == "control", "digest": f"sha256:{n}"} for n in ("control", "huge")]
        wanted = spec_to_proto(spec(arms=arms))
        assert served.operate.DryRun(epb.DryRunRequest(spec=wanted)).new_epoch
        served.operate.UpdateExperiment(epb.UpdateExperimentRequest(spec=wanted))
        until(lambda: decide(served, "y").epoch == 2)
        assert report(served, tokens[401:450]) == {rpb.REWARD_OUTCOME_APPLIED: 49}
        until(lambda: status(served).rewards.applied == 450)
        assert sum(metric.n for arm in status(served).arms for metric in arm.metrics) == 0

        served.operate.PromoteArm(epb.PromoteArmRequest(name=f"{NAME}/arms/huge"))
        until(lambda: decide(served, "z").reason == dpb.DECISION_REASON_PROMOTED)
        assert {decide(served, f"u{index}").arm for index in range(50)} == {"huge"}
        served.operate.DeleteExperiment(epb.DeleteExperimentRequest(name=NAME))
        until(lambda: code_of(lambda: decide(served, "x")) == grpc.StatusCode.NOT_FOUND)


@pytest.mark.slow
def test_a_store_that_is_away_for_a_while(own_server: Embedded) -> None:
    """Decisions go on from what was read last, rewards are refused whole, and afterwards everything adds up."""
    with service(own_server) as served:
        begin(served)
        tokens = [decide(served, f"u{index}").token for index in range(100)]
        assert report(served, tokens[:50]) == {rpb.REWARD_OUTCOME_APPLIED: 50}
        own_server.stop()
        until(lambda: served.keeper.counts.failed_polls > 0, what="the loss is seen")
        arms = {decide(served, f"u{index}").arm for index in range(100)}
        assert arms == {"control", "small", "large"}
        assert code_of(lambda: report(served, tokens[:60])) == grpc.StatusCode.UNAVAILABLE
        assert code_of(lambda: status(served)) == grpc.StatusCode.UNAVAILABLE
        until(lambda: decide(served, "u").mode == dpb.SERVING_MODE_STALE, what="it says that it is stale")
        assert decide(served, "u").state_age.ToMilliseconds() >= 3000
        assert decide(served, "u").counted
        own_server.start()
        until(lambda: decide(served, "u").mode == dpb.SERVING_MODE_FRESH, 10.0, "fresh again")
        until(lambda: code_of(lambda: report(served, tokens[:60], wait=False)) == grpc.StatusCode.OK, 10.0)
        assert report(served, tokens[:60]) == {rpb.REWARD_OUTCOME_DUPLICATE: 60}
        decided = served.journal.recorded
        until(lambda: status(served).exposures == decided, 20.0, "every decision is counted")
        until(lambda: status(served).rewards.duplicate >= 60, what="the status has caught up")
        assert status(served).rewards.applied == 60
        assert status(served).exposures_lost == 0
