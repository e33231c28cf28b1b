"""Says in words when a guardrail cannot work at the traffic of a world, and what would; it rehearses nothing itself.

Outcomes of the arm until a decision (design of the e-processes, to first order): against a fixed limit
n = [ln(M / alpha) + ln(1 + n / k) / 2] / kl(p1, p0); against the control n = 2 [ln(M / alpha) + ln(1 + V / rho) / 2]
(v1 + v0 w / (1 - w)) / delta^2, w the arm's part of the pair's traffic, V the variance of its scores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bandit.guardrails.levels import thresholds
from bandit.kernels.overlap import TYPICAL_RHO
from bandit.simulate.laws import atoms
from bandit.simulate.plan import Plan
from bandit.simulate.tally import GuardTally, Tally
from bandit.spec.model import PPM, Guardrail, MetricKind
from bandit.spec.quantity import format_duration

USUAL_EXCESS = 1.2
"""The harm that a guardrail should see where the world has none: a fifth more."""
STRENGTH = 100.0
ROUNDS = 40
LARGEST_EXCESS = 50.0
SURE = 0.8
"""A guardrail that detects in this part of the runs works."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What a guardrail needs and has in a world: ``excess``, the bad share over what is tolerated; ``need`` and
    ``have`` outcomes of the arm; ``least``: the smallest excess that it sees with what it has, inf for none."""

    guardrail: str
    arm: str
    excess: float
    need: float
    have: float
    least: float


def outcomes_needed(plan: Plan, guardrail: Guardrail, arm: int, excess: float, part: float) -> float:
    """Outcomes of the arm until the guardrail fails on ``excess`` times what it tolerates; inf when never.

    ``part``: the arm's part of the traffic of arm and control, in (0, 1)."""
    spec = plan.spec
    level = thresholds(spec, guardrail, 1).fail
    at = spec.metric_index(guardrail.metric or "")
    assert at is not None
    if guardrail.kind in ("rate_limit", "breaker"):
        limit = guardrail.limit or 0.5
        worse = min(excess * limit, 1.0)
        return _until(level, _kl(worse, limit), STRENGTH) if worse > limit else math.inf
    bad = float(np.einsum("eg,g->e", plan.badness(at)[..., spec.control_index], plan.parts).mean())
    tolerated = guardrail.margin * bad
    worse = min(excess * tolerated, 1.0)
    delta = worse / guardrail.margin - bad
    if delta <= 0.0:
        return math.inf
    v0 = _variance(plan, at, spec.control_index, bad)
    v1 = _variance(plan, at, arm, worse) / guardrail.margin**2
    one = (1.0 - part) ** 2 * v1 + part * (1.0 - part) * v0
    needed = 1000.0
    for _ in range(ROUNDS):
        gain = level + 0.5 * math.log1p(needed * one / TYPICAL_RHO)
        needed = 2.0 * gain * (v1 + v0 * part / (1.0 - part)) / delta**2
    return needed


def reach(plan: Plan, tally: Tally, guard: GuardTally) -> Reach | None:
    """What one guardrail needs for the harm at hand, or for the usual one; None for kinds without a formula."""
    spec = plan.spec
    guardrail = next(each for each in spec.guardrails if each.name == guard.guardrail)
    at = spec.metric_index(guardrail.metric) if guardrail.metric else None
    if guardrail.kind not in ("rate_limit", "harm") or at is None:
        return None
    if spec.metrics[at].kind is MetricKind.RATIO:
        return None
    arm = spec.arm_index(guard.arm)
    assert arm is not None
    served = tally.arms[arm].requests
    control = tally.arms[spec.control_index].requests
    part = min(max(served / max(served + control, 1.0), 1e-6), 1.0 - 1e-6)
    law = plan.laws[0][arm][at]
    have = served * (law.answered if law and spec.metrics[at].default_when_silent is None else 1.0)
    excess = _excess(plan, guardrail, at, arm) if guard.harmful else USUAL_EXCESS
    need = outcomes_needed(plan, guardrail, arm, excess, part)
    return Reach(guard.guardrail, guard.arm, excess, need, have, _least(plan, guardrail, arm, part, have))


def advice(plan: Plan, tally: Tally) -> tuple[str, ...]:
    """A sentence for each guardrail and challenger that the traffic is too thin for; none when all can work."""
    found = []
    for guard in tally.guards:
        if guard.harmful and guard.acted.share >= SURE:
            continue
        # Where another guardrail stops the arm first, this one has no chance to.
        stopped_first = guard.harmful and guard.missed.share < 1.0 - SURE
        reached = None if stopped_first else reach(plan, tally, guard)
        if reached is not None and reached.need > reached.have:
            found.append(_sentence(plan, tally, guard, reached))
    return tuple(found)


def _sentence(plan: Plan, tally: Tally, guard: GuardTally, reached: Reach) -> str:
    spec = plan.spec
    arm = spec.arm_index(guard.arm)
    assert arm is not None
    share = tally.arms[arm].requests / max(tally.requests, 1.0)
    more = f"+{100 * (reached.excess - 1.0):.0f} %"
    said = (
        f"{guard.guardrail} cannot see {more} on {guard.arm} at {plan.world.traffic_per_hour:,.6g} requests an hour "
        f"within {format_duration(plan.world.horizon)}: it needs about {_round(reached.need)} outcomes of {guard.arm}, "
        f"which gets {_round(reached.have)} ({100 * share:.2g} % of the traffic)"
    )
    times = reached.need / max(reached.have, 1e-9)
    ways = []
    guardrail = next(each for each in spec.guardrails if each.name == guard.guardrail)
    wider = _wider(plan, guardrail, arm, reached.excess, tally)
    if wider is not None:
        cap = spec.bounds_ppm(arm)[1] / PPM
        ways.append(
            f"{'raise the cap and give it' if wider > cap else 'give it'} {100 * wider:.2g} % of the traffic"
        )
    ways.append(f"watch for {_span(plan.world.horizon * times)}")
    if math.isfinite(reached.least):
        ways.append(f"be content with harm from +{100 * (reached.least - 1.0):.0f} % on, which it does see")
    if guardrail.priority == 1.0 and len(spec.guardrails) > 1:
        ways.append("drop guardrails that matter less (they share alpha)")
    return f"{said}; {'; or '.join(ways)}"


def _wider(plan: Plan, guardrail: Guardrail, arm: int, excess: float, tally: Tally) -> float | None:
    """Least share of the traffic, to 1 %, with which the arm gets what is needed in the horizon; None for none."""
    total = plan.requests_per_period * plan.periods
    answered = 1.0
    law = plan.laws[0][arm][plan.spec.metric_index(guardrail.metric or "") or 0]
    if law is not None:
        answered = law.answered
    del tally
    for percent in range(1, 96):
        share = percent / 100
        if outcomes_needed(plan, guardrail, arm, excess, share) <= share * total * answered:
            return share
    return None


def _least(plan: Plan, guardrail: Guardrail, arm: int, part: float, have: float) -> float:
    low, high = 1.0, LARGEST_EXCESS
    if outcomes_needed(plan, guardrail, arm, high, part) > have:
        return math.inf
    for _ in range(ROUNDS):
        middle = math.sqrt(low * high)
        if outcomes_needed(plan, guardrail, arm, middle, part) > have:
            low = middle
        else:
            high = middle
    return high


def _excess(plan: Plan, guardrail: Guardrail, at: int, arm: int) -> float:
    """True bad share over what is tolerated, mean over the periods in which the promise is broken."""
    bad = np.einsum("egk,g->ek", plan.badness(at), plan.parts)
    if guardrail.kind == "harm":
        tolerated = guardrail.margin * bad[:, plan.spec.control_index]
    else:
        tolerated = np.full(len(bad), guardrail.limit or 0.5)
    ratio = bad[:, arm] / np.maximum(tolerated, 1e-12)
    worse = ratio[ratio > 1.0]
    return float(worse.mean()) if worse.size else USUAL_EXCESS


def _variance(plan: Plan, at: int, arm: int, bad: float) -> float:
    """Variance of one badness at a mean badness of ``bad``: of 0 or 1 where values are, else the law's."""
    law = plan.laws[0][arm][at]
    metric = plan.spec.metrics[at]
    if metric.kind is MetricKind.BERNOULLI or law is None:
        return max(bad * (1.0 - bad), 1e-12)
    x, weight = atoms(metric, law, float(plan.means[0, 0, arm, at]))
    mean = float(x @ weight)
    return max(float(((x - mean) ** 2) @ weight), 1e-12)


def _until(level: float, divergence: float, strength: float) -> float:
    if divergence <= 0.0:
        return math.inf
    needed = level / divergence
    for _ in range(ROUNDS):
        needed = (level + 0.5 * math.log1p(needed / strength)) / divergence
    return needed


def _kl(p: float, q: float) -> float:
    left = p * math.log(p / q) if p > 0.0 else 0.0
    right = (1.0 - p) * math.log((1.0 - p) / (1.0 - q)) if p < 1.0 else 0.0
    return max(left + right, 0.0)


def _round(value: float) -> str:
    if not math.isfinite(value):
        return "endlessly many"
    digits = max(0, 1 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{round(value, digits if value < 100 else 1 - math.floor(math.log10(value))):,.0f}"


def _span(seconds: float) -> str:
    if not math.isfinite(seconds) or seconds > 10 * 366 * 86400:
        return "more than ten years"
    for size, unit in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * size:
            return f"{math.ceil(seconds / size):,} {unit}"
    return f"{math.ceil(seconds)} seconds"
