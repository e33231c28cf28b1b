"""A release routed by features, through the real processes: shares come to follow the features, a killed learner
changes no sum, and what people are shown compares no unlike requests."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bandit.client import Client
from bandit.client.connection import split_tokens
from bandit.ctl.render import status_view
from bandit.ctl.report_view import report_view
from bandit.features import Encoder
from bandit.ledger import ONE
from bandit.linear import weights
from bandit.linear.sums import add, width_of
from bandit.ranges import PPM
from bandit.spec.model import ExperimentSpec
from bandit.v1 import reward_service_pb2 as wire
from server.store.embedded import Embedded
from server.store.redis import RedisStore
from tests.builders import spec
from tests.service import Service, until

PLANS = ("free", "pro")
RATES = {("control", "free"): 0.7, ("control", "pro"): 0.2, ("small", "free"): 0.2, ("small", "pro"): 0.7}


def by_plan() -> ExperimentSpec:
    """Two arms; the control is better for free plans, the small one for pro plans."""
    return spec(
        arms=[{"name": "control", "control": True}, {"name": "small"}],
        metrics=[
            {"name": "good", "kind": "bernoulli", "direction": "maximize", "corrections": True},
            {"name": "bad", "kind": "bernoulli", "direction": "minimize"},
        ],
        objective=[{"metric": "good"}],
        guardrails=[{"name": "harm", "kind": "harm", "metric": "bad"}],
        allocator={"kind": "lin_ts"},
        baseline="stationary",
        unit={"kind": "request", "mode": "request"},
        features=[
            {"name": "plan", "kind": "categorical", "values": list(PLANS)},
            {"name": "tokens", "kind": "numeric", "low": 0, "high": 1000},
        ],
    )


class Traffic:
    """Decides and rewards, and adds up in plain integers what the ledger must hold."""

    def __init__(self, made: ExperimentSpec) -> None:
        self.encoder = Encoder(made.features)
        self.sums = np.zeros((2, 1, width_of(self.encoder.dimension)), np.int64)
        self.weighed = np.zeros((2, 2, 2, weights.SUMS), np.int64)
        self.chance = random.Random(3)
        self.sent = 0
        self.last = {plan: np.zeros(2) for plan in PLANS}

    def serve(self, client: Client, count: int) -> list[wire.RewardEvent]:
        """Decide ``count`` requests in batches of like features, and reward each."""
        events: list[wire.RewardEvent] = []
        for _ in range(count // 20):
            plan, tokens = self.chance.choice(PLANS), str(self.chance.randrange(1000))
            attributes = {"plan": plan, "tokens": tokens}
            reply = client.decide_batch("answers", [f"u{n}" for n in range(20)], attributes)
            encoded = np.frombuffer(self.encoder.encode(attributes), np.uint8)[None]
            assert reply.token_size == 69
            for token, arm, ppm in zip(
                split_tokens(reply), reply.arm_indexes, reply.propensities_ppm, strict=True
            ):
                self.last[plan][arm] += 1
                value = float(self.chance.random() < RATES[reply.arms[arm], plan])
                row, one = self.encoder.rows(encoded), np.array([round(value * ONE)])
                add(self.sums[arm, 0], row, one, np.array([1]))
                events.append(wire.RewardEvent(token=token, metric="good", value=value))
                events.append(wire.RewardEvent(token=token, metric="bad", value=1.0))
                self._weigh(arm, ppm, 0, one, 1)
                self._weigh(arm, ppm, 1, np.array([ONE]), 1)
                if self.chance.random() < 0.1:
                    events.append(
                        wire.RewardEvent(
                            token=token, metric="good", value=1 - value, sequence=1,
                            operation=wire.REWARD_OPERATION_CORRECT,
                        )
                    )  # fmt: skip
                    add(self.sums[arm, 0], row, one, np.array([-1]))
                    add(self.sums[arm, 0], row, ONE - one, np.array([1]))
                    self._weigh(arm, ppm, 0, one, -1)
                    self._weigh(arm, ppm, 0, ONE - one, 1)
        self.sent += len(events)
        return events

    def _weigh(self, arm: int, ppm: int, metric: int, q: NDArray[np.int64], sign: int) -> None:
        """Of two arms, the share of one tells that of the other."""
        shares = [PPM - ppm, PPM - ppm]
        shares[arm] = ppm
        marks, one = np.frombuffer(weights.marks_of(shares), np.uint8)[None], np.ones(1, np.int64)
        weights.add(self.weighed, marks, ppm * one, arm * one, metric * one, q, sign * one, 0)


def report(client: Client, events: Sequence[wire.RewardEvent]) -> None:
    for result in client.report_rewards(events):
        assert result.outcome == wire.REWARD_OUTCOME_ACCEPTED, result


@pytest.mark.timeout(300)
def test_shares_come_to_follow_the_features_and_a_killed_learner_loses_nothing(tmp_path: Path) -> None:
    made = by_plan()
    traffic = Traffic(made)
    with Service(tmp_path / "kept") as service, service.client() as client:
        client.create(made)
        client.start("answers")
        until(lambda: client.status("answers").allocation.cause == "evidence", 60, "the first rule")
        report(client, traffic.serve(client, 400))
        assert service.kill("--child learn")
        events = traffic.serve(client, 400)
        report(client, events + events[:100])

        def folded() -> bool:
            counts = client.status("answers").rewards
            return counts.applied + counts.duplicate + counts.superseded >= traffic.sent + 100

        until(folded, 90, "everything folded by the next learner")
        until(lambda: follows(client), 60, "shares that follow the features")
        status = client.status("answers")
        assert status.warnings[0].startswith("each arm serves other requests")
        columns = [each.column for each in status.arms[1].coefficients]
        assert columns == ["intercept", "plan=other", "plan=free", "plan=pro", "tokens"]
        free, pro = (status.arms[1].coefficients[columns.index(f"plan={plan}")] for plan in PLANS)
        assert pro.mean - free.mean > 4 * (pro.sd + free.sd)
        assert not status.HasField("requests_more")
        shown = text_of(status_view(status, status.evaluation_time.seconds, 160))
        assert "COEFFICIENTS" in shown
        assert "plan=pro" in shown
        assert "To tell the best arm" not in shown
        until(lambda: client.report("answers").decisions >= 800, 60, "a report of everything")
        told = client.report("answers")
        assert told.winner.arm == told.winner.leader == ""
        assert not any(arm.HasField("mean_weight") for arm in told.arms)
        assert not any(arm.HasField("mean") for each in told.metrics for arm in each.arms)
        # The windows are open: effects and verdicts have their place and say nothing yet.
        assert [arm.HasField("effect") for each in told.metrics for arm in each.arms] == [False, True] * 2
        assert not told.metrics[0].arms[1].effect.HasField("estimate")
        assert [(each.guardrail, each.n) for each in told.verdicts] == [("harm", 0)]
        assert "COEFFICIENTS" in text_of(report_view(told, told.evaluation_time.seconds, 160))
    store = Embedded(tmp_path / "kept" / "store")
    store.start()
    try:
        kept = RedisStore(store.url)
        state = kept.load_writer("answers")
        kept.close()
    finally:
        store.stop()
    assert state is not None
    periods = [period.linear for period in state.ledger.current() if period.linear is not None]
    assert np.array_equal(np.sum(periods, axis=0), traffic.sums)
    weighed = [period.weighed for period in state.ledger.current() if period.weighed is not None]
    assert np.array_equal(np.sum(weighed, axis=0), traffic.weighed)


def follows(client: Client) -> bool:
    """Is the better arm of each plan much likelier than the other?"""
    shares = {}
    for plan in PLANS:
        reply = client.decide_batch("answers", ["probe"], {"plan": plan, "tokens": "500"})
        chance = reply.propensities_ppm[0] / 1e6
        shares[plan] = chance if reply.arm_indexes[0] == 0 else 1.0 - chance
    return shares["free"] > 0.9 and shares["pro"] < 0.1


def text_of(view: object) -> str:
    from io import StringIO

    from rich.console import Console

    console = Console(file=StringIO(), width=200)
    console.print(view)
    written = console.file
    assert isinstance(written, StringIO)
    return written.getvalue()
