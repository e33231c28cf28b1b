"""A look of a rehearsal is the look of the server, taken until nothing is left to take away."""

from __future__ import annotations

import numpy as np
import pytest

from bandit.guardrails.base import Folded
from bandit.look import look as served
from bandit.simulate.look import Book, Standing, look
from bandit.simulate.outcomes import Outcomes
from bandit.simulate.plan import plan
from bandit.spec.model import PPM
from tests.rehearsals import LIKED, UNSAFE, spec_of, world_of

PERIOD_MS = 10_000


@pytest.mark.parametrize("cohorts", [None, {"attribute": "plan", "values": ["free", "paid"]}])
def test_a_rehearsal_moves_as_the_server_does(
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
    assert look(standing, book, 600.0) == []
    rng = np.random.default_rng(1)
    acted = []
    for _ in range(12):
        shares = np.array(standing.shares_ppm) / PPM
        book.add(outcomes.period(book.count, shares, rng), shares, standing.centres)
        before = standing.experiment, standing.allocation
        seen = served(*before, *book.tables(), Folded.empty_of(spec), book.now_ms, batch=600.0, renew=True)
        fell = look(standing, book, 600.0)
        assert seen.transition is not None
        if fell:  # the server takes away first and renews shares at its next look
            assert seen.decided == fell[0]
            assert seen.transition.action == "rolled_back"
            assert standing.experiment == seen.transition.experiment
            assert standing.shares_ppm[fell[0].arm] == 0
            seen = served(
                seen.transition.experiment,
                seen.transition.allocation,
                *book.tables(),
                Folded.empty_of(spec),
                book.now_ms,
                batch=600.0,
                renew=True,
            )
        acted += fell
        assert seen.transition is not None
        assert standing.allocation == seen.transition.allocation
        assert standing.allocation.cause == "evidence"
    assert [(each.arm, each.verdict.guardrail) for each in acted] in ([(1, "worse")], [(1, "limit")])
