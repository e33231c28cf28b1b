"""How late rewards come: delay curves of arms from delays that are cut short; it counts no decision.

A period of age a shows only delays up to a. Two readings of the same counts are put together:

* A catalogue of laws, exp(-(u / scale)^shape) within the window, each as likely as it makes the delays seen, given how
  many were seen: a period of age a says P(delay in a part | delay <= a), so neither the level of a metric nor its drift
  matters. What no period is old enough to show yet is known as far as the catalogue agrees on it.
* From the longest part down, F(u) / F(2 u) = 1 - (delays in (u, 2 u]) / (delays up to 2 u) over the periods older
  than 2 u (Lynden-Bell 1971; Kalbfleisch and Lawless 1991), which asks nothing of the law. It begins at the
  catalogue's ratio as if BELIEVED rewards had shown that, so that a law of any other form is right in the end.

A delay that the spec declares is a belief about those laws, as if ``strength`` rewards had come by it, beside the law
of :mod:`bandit.declared` itself; with chance DOUBTED it says nothing, so that a wrong one is overruled by few rewards.
Only beliefs read these curves: verdicts wait until windows have closed, whatever is declared.

Each arm has a curve of its own: arms that differ in delay alone must not look different.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit.declared import CELLS, Declared, declared, share_by
from bandit.ledger import FloatArray, PeriodTable
from bandit.spec.channels import EARLY_PARTS, Channel, ChannelKind
from bandit.spec.metric import Metric
from bandit.spec.model import ExperimentSpec

LEAST_DELAYS = 20.0
"""Delays of all arms together from which on any curve is believed."""
SHARED_DELAYS = 2.0
"""An arm's laws are weighed as if so many more of its rewards had been those of all arms together."""
BELIEVED = 20.0
SHAPES = (0.7, 1.0, 1.4, 2.0, 3.0)
DOUBTED = 0.1
"""Chance that a declared delay is wrong."""
DOUBT = 0.5
"""What is still to come by the end of the window, as the catalogue has it, may be wrong by this part."""
LONGEST, MIDDLE, WIDE, STEP = 2.0, -2.5, 2.0, 0.5
"""Scales of the catalogue, in powers of two of the window: the longest, the likeliest, their sd, and their steps. A
window is usually chosen so that most rewards come well within it."""
AGES_PER_OCTAVE = 16
"""Periods whose ages differ by less are taken as one."""
LEAST = 1e-300
LEAST_EXPOSURES = 1e-9
SHORTEST = 2.0**-14

PARTS = np.array(EARLY_PARTS)


class DelayCurve(NamedTuple):
    """``part`` [K, 1 + P]: share of an arm's rewards that come by each of (0, *EARLY_PARTS) of the window; ``error``
    [K]: relative standard error of the level of young periods that comes of not knowing it better, 0 in the end."""

    part: FloatArray
    error: FloatArray


class Laws(NamedTuple):
    """L laws at A ages (parts of the window): ``share`` [L, A] and its integral from 0, ``log_prior`` [L], or [K, L]
    where arms are believed to differ; ``told`` [K, L]: the part of that which is owed to what was declared."""

    age: FloatArray
    share: FloatArray
    integral: FloatArray
    log_prior: FloatArray
    told: FloatArray


class _Young(NamedTuple):
    """C classes of periods whose window is open: ages (parts of the window) of their newest and oldest decisions [C],
    exposures [C, K], and delays seen in each part [C, K, P]."""

    newest: FloatArray
    oldest: FloatArray
    assigned: FloatArray
    delays: FloatArray


def delay_curves(table: PeriodTable, spec: ExperimentSpec, now_ms: int) -> dict[int, DelayCurve]:
    """A curve by metric; metrics that do not weigh pending decisions, or know too few delays yet, are left out."""
    curves: dict[int, DelayCurve] = {}
    for index, metric in enumerate(spec.metrics):
        if not metric.weighs_pending:
            continue
        columns = [
            spec.columns[Channel(ChannelKind.EARLY, index, place=each)] for each in range(len(EARLY_PARTS))
        ]
        early = table.s1[:, :, columns]
        known = tuple(declared(each, metric.attribution_window) for each in spec.delays(index))
        if early[:, :, -1].sum() >= LEAST_DELAYS or None not in known:
            curves[index] = _curve(table, metric, early, known, now_ms)
    return curves


def _curve(
    table: PeriodTable, metric: Metric, early: FloatArray, known: tuple[Declared | None, ...], now_ms: int
) -> DelayCurve:
    """From counts [E, K, P] of delays up to each part, and what is declared of each arm."""
    mature = table.mature(metric.attribution_window, now_ms)
    settled = early[mature].sum(axis=0)
    young = _young(table, metric, early, mature, now_ms)
    laws = believed_laws(known)
    likely, mean, spread, trust = _likely(laws, young, settled)
    worth = BELIEVED + trust * np.array([0.0 if each is None else each.strength for each in known])
    believed = (likely / mean) @ _at(laws, PARTS)[0]
    shorter = np.concatenate([np.zeros_like(believed[:, :1]), believed[:, :-1]], axis=1)
    up_to, below = _known(young, settled)
    ratio = (below + worth[:, None] * shorter / np.maximum(believed, LEAST)) / (up_to + worth[:, None])
    part = np.ones((early.shape[1], 1 + len(PARTS)))
    part[:, 0] = 0.0
    for at in range(len(PARTS) - 2, -1, -1):
        part[:, 1 + at] = part[:, 2 + at] * ratio[:, at + 1]
    horizon = young.oldest.max(initial=0.0, keepdims=True)
    rest = 1.0 - ((likely / mean) @ _at(laws, horizon)[0])[:, 0]
    unknown = np.hypot(spread, DOUBT * rest * (1.0 - trust))
    return DelayCurve(part, unknown * worth / (up_to[:, -1] + worth))


def _likely(
    laws: Laws, young: _Young, settled: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """How likely each law is over the exposures it lets be seen [K, L], the sum of that [K, 1], its relative standard
    deviation [K], and how far what was declared is believed [K]: an arm's rate is its rewards over those exposures, so
    laws count by their inverse."""
    seen = _seen(laws, young)
    every = seen[:, :, -1]
    within = np.diff(seen, axis=2, prepend=0.0) / np.maximum(every, LEAST)[:, :, None]
    whole = np.diff(_at(laws, PARTS)[0], axis=1, prepend=0.0)
    evidence = np.einsum("ckp,lcp->kl", young.delays, np.log(np.maximum(within, LEAST)))
    evidence += np.diff(settled, axis=1, prepend=0.0) @ np.log(np.maximum(whole, LEAST)).T
    delays = max(young.delays.sum() + settled[:, -1].sum(), 1.0)
    evidence += SHARED_DELAYS * evidence.sum(axis=0) / delays + laws.log_prior
    weight = np.exp(evidence - evidence.max(axis=1, keepdims=True))
    weight /= weight.sum(axis=1, keepdims=True)
    inverse = 1.0 / np.maximum(np.einsum("ck,lc->kl", young.assigned, every), LEAST_EXPOSURES)
    mean = (weight * inverse).sum(axis=1)
    square = (weight * inverse * inverse).sum(axis=1) / (mean * mean)
    trust = (weight * laws.told).sum(axis=1)
    return weight * inverse, mean[:, None], np.sqrt(np.maximum(square - 1.0, 0.0)), trust


def _young(
    table: PeriodTable, metric: Metric, early: FloatArray, mature: NDArray[np.bool_], now_ms: int
) -> _Young:
    """Periods whose window is open, by their ages; decisions are spread evenly over a period."""
    window_ms = 1000.0 * metric.attribution_window
    end_ms = np.where(table.end_ms > 0, np.minimum(table.end_ms, now_ms), now_ms)[~mature]
    newest = np.clip((now_ms - end_ms) / window_ms, 0.0, 1.0 - SHORTEST)
    oldest = np.clip((now_ms - table.start_ms[~mature]) / window_ms, newest + SHORTEST, 1.0)
    octave = np.log2(np.maximum(0.5 * (newest + oldest), SHORTEST))
    classes, place = np.unique(np.floor(AGES_PER_OCTAVE * octave), return_inverse=True)
    size = len(classes)
    young = _Young(
        np.ones(size),
        np.zeros(size),
        np.zeros((size, early.shape[1])),
        np.zeros((size, *early.shape[1:])),
    )
    np.minimum.at(young.newest, place, newest)
    np.maximum.at(young.oldest, place, oldest)
    np.add.at(young.assigned, place, table.assigned[~mature])
    np.add.at(young.delays, place, np.diff(early[~mature], axis=2, prepend=0.0))
    return young


def _known(young: _Young, settled: FloatArray) -> tuple[FloatArray, FloatArray]:
    """[K, P] delays up to each part in periods that are older, and those of them up to the part before."""
    old = (young.newest[:, None] >= PARTS).astype(np.float64)
    up_to = np.cumsum(young.delays, axis=2)
    every = np.einsum("ckp,cp->kp", up_to, old) + settled
    last = np.einsum("ckp,cp->kp", young.delays, old) + np.diff(settled, axis=1, prepend=0.0)
    return every, every - last


@lru_cache(maxsize=1)
def catalogue() -> Laws:
    """The laws of the module: F(u) = (1 - exp(-(u / scale)^shape)) / (1 - exp(-(1 / scale)^shape))."""
    octaves = np.arange(-len(PARTS), LONGEST + STEP / 2, STEP)
    exponent, shape = (each.ravel()[:, None] for each in np.meshgrid(octaves, np.array(SHAPES)))
    age = np.concatenate([[0.0], 2.0 ** (np.arange(-8 * (len(PARTS) + 1), 1) / 8.0)])
    share = -np.expm1(-((age / 2.0**exponent) ** shape)) / -np.expm1(-((1.0 / 2.0**exponent) ** shape))
    prior = _normal(-0.5 * ((exponent[:, 0] - MIDDLE) / WIDE) ** 2)
    return Laws(age, share, _integral(age, share), prior, np.zeros((1, len(share))))


@lru_cache(maxsize=64)
def believed_laws(known: tuple[Declared | None, ...]) -> Laws:
    """The catalogue and the declared laws, as each arm is believed to have them before any reward."""
    laws = catalogue()
    found = tuple(dict.fromkeys(each for each in known if each is not None))
    if not found:
        return laws
    share = np.concatenate([laws.share, [share_by(each, laws.age) for each in found]])
    wide = laws._replace(share=share, integral=_integral(laws.age, share))
    vague = np.concatenate([laws.log_prior, np.full(len(found), -np.inf)])
    prior, told = np.tile(vague, (len(known), 1)), np.zeros((len(known), len(share)))
    for arm, each in enumerate(known):
        if each is not None:
            by = _at(wide, np.array([each.middle, each.late]))[0]
            cells = np.diff(np.concatenate([by, np.ones((len(by), 1))], axis=1), axis=1, prepend=0.0)
            # Where the declared law is one of the laws: -strength times the divergence of a law from it.
            log = _normal(each.strength * (np.log(np.maximum(cells, LEAST)) @ np.array(CELLS)))
            log += np.log1p(-DOUBTED)
            prior[arm] = np.logaddexp(log, vague + np.log(DOUBTED))
            told[arm] = np.exp(log - prior[arm])
    return wide._replace(log_prior=prior, told=told)


def _normal(log: FloatArray) -> FloatArray:
    """Logarithms of weights that sum to 1."""
    high = log.max()
    return np.asarray(log - (high + np.log(np.exp(log - high).sum())))


def _integral(age: FloatArray, share: FloatArray) -> FloatArray:
    steps = 0.5 * (share[:, 1:] + share[:, :-1]) * np.diff(age)
    return np.concatenate([np.zeros((len(share), 1)), np.cumsum(steps, axis=1)], axis=1)


def _at(laws: Laws, age: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(share, its integral) [L, X] at ages [X] in [0, 1]."""
    left = np.clip(np.searchsorted(laws.age, age, "right") - 1, 0, len(laws.age) - 2)
    way = (age - laws.age[left]) / (laws.age[left + 1] - laws.age[left])
    share = laws.share[:, left] * (1.0 - way) + laws.share[:, left + 1] * way
    return share, laws.integral[:, left] + 0.5 * (laws.share[:, left] + share) * (age - laws.age[left])


def _seen(laws: Laws, young: _Young) -> FloatArray:
    """[L, C, P] mean of F(min(part, age)) over the decisions of a class."""
    share, integral = _at(laws, PARTS)
    newest, oldest = young.newest[:, None], young.oldest[:, None]
    before, after = _at(laws, young.newest)[1][:, :, None], _at(laws, young.oldest)[1][:, :, None]
    cut = integral[:, None, :] - before + (oldest - PARTS) * share[:, None, :]
    seen = np.where(oldest <= PARTS, after - before, cut) / (oldest - newest)
    return np.where(newest >= PARTS, share[:, None, :], seen)
