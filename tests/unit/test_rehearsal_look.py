"""A look of a rehearsal is the look of the server: same evidence in, same verdicts, shares and centres out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bandit.guardrails.base import Folded
from bandit.rollout.state import State
from bandit.rollout.transitions import create, reallocate, start
from bandit.simulate.look import Book, Standing
from bandit.simulate.look import look as rehearsed
from bandit.simulate.outcomes import Outcomes
from bandit.simulate.plan import plan
from bandit.spec.model import PPM
from server.control.judge import look as served
from tests.rehearsals import LIKED, UNSAFE, spec_of, world_of

PERIOD_MS = 10_000


@pytest.mark.parametrize("cohorts", [None, {"attribute": "plan", "values": ["free", "paid"]}])
def test_the_same_evidence_gives_the_same_verdicts_shares_and_centres(
    cohorts: dict[str, object] | None,
) -> None:
    spec = spec_of(
        3,
        metrics=[{**LIKED, "attribution_window": "40s", "default_when_silent": 0}, UNSAFE],
        guardrails=[
            {"name": "worse", "kind": "harm", "metric": "unsafe"},
            {"name": "limit", "kind": "rate_limit", "metric": "unsafe", "limit": 0.05},
        ],
        bounds={"floor": 0.05, "control_floor": 0.1, "ramp_per_minute": 0.3},
        **({"cohorts": cohorts} if cohorts else {}),
    )
    laws = {
        "a": {"liked": {"mean": 0.3, "delay": "9s"}, "unsafe": {"mean": 0.02}},
        "b": {"liked": {"times": 1.3}, "unsafe": {"times": 3}},
    }
    made = plan(spec, world_of(600, 12, laws), 12)
    outcomes = Outcomes(made)
    book = Book.empty(spec, 12, outcomes.lags, len(made.parts), made.period_s)
    standing = Standing.begin(spec)
    rehearsed(spec, standing, book, 600.0)
    draft = create(spec, 1, bytes(16), 0)
    begun = start(draft.experiment, draft.allocation, 0)
    experiment = replace(begun.experiment, arms=draft.experiment.arms)
    assert experiment.state is State.RUNNING
    rng = np.random.default_rng(1)
    acted = 0
    for _ in range(12):
        assert standing.shares_ppm is not None
        before = reallocate(
            experiment, begun.allocation, standing.shares_ppm, standing.centres, "evidence", book.now_ms
        ).allocation
        shares = np.array(standing.shares_ppm) / PPM
        book.add(outcomes.period(book.count, shares, rng), shares, standing.centres)
        table, rows = book.tables()
        seen = served(experiment, before, table, rows, Folded.empty_of(spec), book.now_ms)
        looked = rehearsed(spec, standing, book, 600.0)
        assert looked.verdicts == seen.verdicts
        if looked.falls:  # the server takes away first and renews shares at its next look
            assert seen.transition is not None
            assert seen.transition.action == "rolled_back"
            acted += 1
            experiment = replace(experiment, arms=tuple(standing.arms))
        else:
            assert standing.shares_ppm == seen.proposal.shares_ppm
            assert seen.transition is not None
            assert standing.centres == seen.transition.allocation.centres
    assert acted == 1
