"""One rehearsed release, from its first decision to the horizon; nothing here is random but the generator given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bandit.ledger import FloatArray
from bandit.rollout.rollback import Kind
from bandit.simulate.by_features import Requests
from bandit.simulate.look import Book, Standing, look
from bandit.simulate.outcomes import Outcomes
from bandit.simulate.plan import Plan
from bandit.spec.model import PPM

if TYPE_CHECKING:
    from numpy.random import Generator

NEVER = -1


@dataclass(frozen=True, slots=True)
class Run:
    """What happened: E periods, K arms, GD guardrails.

    ``shares`` [E, K], of all traffic. ``served`` [E, K] requests. ``regret``: sum over requests of what the best
    feasible arm pays more (of the request's segment, or cohort where those may be apart), in units of the objective;
    what a harmful arm pays more than that is no gain. ``fell`` [GD, K]: period after which the guardrail acted on the
    arm, NEVER when it did not; ``rolled_back`` [K] likewise, whichever guardrail it was, rollbacks alone.
    """

    shares: FloatArray
    served: FloatArray
    regret: float
    fell: NDArray[np.int64]
    rolled_back: NDArray[np.int64]


def rehearse(plan: Plan, outcomes: Outcomes, rng: Generator) -> Run:
    """One run of the plan; ``outcomes`` are the plan's, made once for many runs."""
    spec = plan.spec
    arms = len(spec.arms)
    segments = bool(plan.world.segments)
    book = Book.empty(spec, plan.periods, outcomes.lags, len(plan.parts), plan.period_s, apart=not segments)
    requests = Requests.of(plan)
    standing = Standing.begin(spec)
    names = {guardrail.name: index for index, guardrail in enumerate(spec.guardrails)}
    fell = np.full((len(spec.guardrails), arms), NEVER)
    rolled_back = np.full(arms, NEVER)
    regret = 0.0
    look(standing, book, plan.requests_per_period, requests=requests)
    for period in range(plan.periods):
        own = None if requests is None else requests.shares(standing.allocation)
        shares = standing.shares(len(plan.parts)) if own is None else own
        drawn = outcomes.period(period, shares, rng)
        book.add(drawn, shares, standing.centres, np.array(standing.shares_ppm) / PPM)
        utility = plan.utility[period]
        most = utility[np.arange(len(plan.parts)), plan.best_in, None]
        regret += float((drawn.assigned * np.maximum(most - utility, 0.0)).sum())
        for fall in look(standing, book, plan.requests_per_period, told=False, requests=requests):
            fell[names[fall.verdict.guardrail], fall.arm] = period
            if fall.kind is Kind.ROLL_BACK:
                rolled_back[fall.arm] = period
    shares_of_all = np.einsum("egk,g->ek", book.share, plan.parts)
    return Run(shares_of_all, book.assigned.sum(axis=1), regret, fell, rolled_back)
