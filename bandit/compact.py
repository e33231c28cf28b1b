"""Which mature periods fold into blocks, so that the ledger stays small while the posteriors stay what they are.

A period whose attribution windows are closed for good never changes again. Without decay all such periods of an
epoch become one block. With decay a block spans at most half-life / 14 (the relative weight error of a block is
exp(h / 2 tau) - 1, 2.5 % at h = tau / 20; tau = half-life / ln 2), until it is 40 half-lives old and weighs 1e-12.
"""

from __future__ import annotations

from collections.abc import Iterable

from bandit.ledger import CELL_ROOM, Ledger, N, Period
from bandit.reward import CLOCK_SLACK_S
from bandit.rollout.state import Experiment
from bandit.spec.model import ExperimentSpec

LEAST = 16
SPAN_PARTS = 14.0
WEIGHTLESS_HALF_LIVES = 40.0


def settled(period: Period, spec: ExperimentSpec | None, now_ms: int) -> bool:
    """True when no reward of any metric can be counted in this period any more."""
    if spec is None:
        return period.end_ms > 0
    window = max(metric.attribution_window for metric in spec.metrics)
    return period.is_mature(window + 2 * CLOCK_SLACK_S, now_ms)


def plan(ledger: Ledger, experiment: Experiment, now_ms: int) -> list[list[int]]:
    """Groups of adjacent periods to fold, each at least two and each within one epoch; [] while little is due."""
    due = [
        period
        for number in sorted(ledger.periods)
        if settled(period := ledger.periods[number], experiment.spec_of(period.epoch), now_ms)
    ]
    if sum(not period.is_block for period in due) < LEAST:
        return []
    half_life = experiment.spec.decay.half_life if experiment.spec.decay else None
    groups: list[list[Period]] = []
    for period in due:
        if groups and _fits(groups[-1], period, half_life, now_ms):
            groups[-1].append(period)
        else:
            groups.append([period])
    return [[period.number for period in group] for group in groups if len(group) > 1]


def _fits(group: list[Period], period: Period, half_life_s: float | None, now_ms: int) -> bool:
    if period.epoch != group[0].epoch or _most_rewards([*group, period]) > CELL_ROOM:
        return False
    if half_life_s is None:
        return True
    if now_ms - period.end_ms > WEIGHTLESS_HALF_LIVES * half_life_s * 1000:
        return True
    return period.end_ms - group[0].start_ms <= half_life_s * 1000 / SPAN_PARTS


def _most_rewards(periods: Iterable[Period]) -> int:
    return sum(int(period.cells.sums[..., N].max(initial=0)) for period in periods)
