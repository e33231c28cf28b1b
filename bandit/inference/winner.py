"""Whether one arm is shown to be the best, by e-processes between every two arms; P(best) has no say in it.

An arm wins when its objective is above that of each other live arm with ln E >= ln(K (K - 1) / alpha), K arms in the
spec: Bonferroni over all ordered pairs, so that with chance 1 - alpha no arm is ever called better than one that is as
good, whichever arms are live and however often one looks. P(best) >= 0.95 is no such rule: two equal arms cross it in
69 of 100 runs with 200 looks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from bandit.inference.effects import (
    CANNOT_TELL,
    Outcome,
    Pair,
    aipw,
    far,
    log_better,
    near,
    pair_of,
    times_more,
)
from bandit.inference.outcomes import Totals, events
from bandit.inference.terms import MOST_ARMS, PHI, PHI2, A, N, S, Terms, V, far_pairs, joints, near_pairs
from bandit.ledger import FloatArray
from bandit.spec.model import ExperimentSpec


@dataclass(frozen=True, slots=True)
class Winner:
    """``arm``: index of the winner, or None. ``leader``: the arm that is nearest to winning; ``rival``: the live arm
    that it is least shown to beat, with ``log_e`` of that against ``log_threshold``.

    ``decisions_more``: about so many further decisions until it wins at the present rate, CANNOT_TELL where the
    evidence points nowhere. ``lift``, ``lift_se``: of the leading challenger over the control in units of the
    objective, measured in each period for the challenger that led before it (AIPW): choosing the arm by the same
    rewards does not flatter it.
    """

    arm: int | None
    leader: int | None
    rival: int | None
    log_e: float
    log_threshold: float
    decisions_more: float
    lift: float
    lift_se: float


def winner_of(
    spec: ExperimentSpec,
    outcome: Outcome,
    terms: Terms,
    totals: Totals,
    live: Sequence[bool],
    decisions: float,
) -> Winner:
    """``outcome``: the objective, better up. ``decisions``: of all arms so far."""
    arms = len(spec.arms)
    threshold = math.log(arms * (arms - 1) / spec.alpha)
    lift, lift_se = aipw(leader_pair(spec, outcome, terms))
    alive = [arm for arm in range(arms) if live[arm]]
    evidence, pairs = against(spec, outcome, terms, totals)
    if len(alive) < 2 or arms > MOST_ARMS:
        return Winner(None, None, None, 0.0, threshold, CANNOT_TELL, lift, lift_se)

    def shown(arm: int, other: int) -> tuple[float, float]:
        # Of equal evidence, as there is none before the first events, the sums of the scores decide.
        return float(evidence[arm, other]), float(pairs[arm, other].s)

    # The weakest comparison of each live arm.
    weakest = {arm: min((other for other in alive if other != arm), key=partial(shown, arm)) for arm in alive}
    leader = max(alive, key=lambda arm: shown(arm, weakest[arm]))
    rival = weakest[leader]
    log_e = float(evidence[leader, rival])
    won = log_e >= threshold
    seen = events(spec, outcome, totals.ripe, (leader, rival))
    times = 1.0 if won else times_more(outcome, pairs[leader, rival], seen, threshold)
    more = max(decisions * (times - 1.0), 0.0 if won else 1.0) if times < CANNOT_TELL else CANNOT_TELL
    return Winner(leader if won else None, leader, rival, log_e, threshold, more, lift, lift_se)


def against(
    spec: ExperimentSpec, outcome: Outcome, terms: Terms, totals: Totals
) -> tuple[FloatArray, dict[tuple[int, int], Pair]]:
    """ln E [K, K] that the arm of the row is better than that of the column, and the pairs; 0 where not compared."""
    arms = len(spec.arms)
    crosses = [(channel.metric, channel.other) for channel in joints(spec)]
    pairs = {key: near(terms, place, crosses, outcome) for place, key in enumerate(near_pairs(spec))}
    pairs |= {key: far(terms, place, crosses, outcome) for place, key in enumerate(far_pairs(spec))}
    pairs |= {(j, k): pair._replace(s=-pair.s, phi=-pair.phi) for (k, j), pair in pairs.items()}
    evidence = np.zeros((arms, arms))
    for (k, j), pair in pairs.items():
        evidence[k, j] = log_better(outcome, pair, events(spec, outcome, totals.ripe, (k, j)))
    return evidence, pairs


def leader_pair(spec: ExperimentSpec, outcome: Outcome, terms: Terms) -> Pair:
    """The leading challenger against the control; only its AIPW terms mean something."""
    parts = np.zeros((terms.leader.shape[0], 6))
    parts[:, [N, PHI, PHI2]] = terms.leader
    parts[:, [A, S, V]] = terms.leader
    crosses = {
        (channel.metric, channel.other): row
        for channel, row in zip(joints(spec), terms.crosses_leader, strict=True)
    }
    return pair_of(outcome, parts, crosses)
