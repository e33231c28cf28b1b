"""Specs with guardrails and periods with given counts, through the real ledger, for tests of guardrails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bandit.counting import layout_of
from bandit.guardrails.base import ArmStanding, Folded, Verdict
from bandit.guardrails.judge import judge
from bandit.ledger import ONE, Cells, Period, PeriodTable, quantise, split_table, table
from bandit.spec.channels import ChannelKind
from bandit.spec.model import ExperimentSpec, Metric, MetricKind
from tests.builders import NOW, spec

SECOND = 1000
LIFE_MS = 60 * SECOND
HOUR = 3600 * SECOND
LONG_AFTER = NOW + 100 * 24 * HOUR

METRICS: list[dict[str, Any]] = [
    {"name": "unsafe", "kind": "bernoulli", "direction": "minimize", "attribution_window": "1h"},
    {"name": "satisfied", "kind": "bernoulli", "direction": "maximize", "attribution_window": "1h"},
    {
        "name": "cost",
        "kind": "gaussian",
        "direction": "minimize",
        "range": [0.0, 2.0],
        "attribution_window": "1h",
    },
    {
        "name": "gain",
        "kind": "gaussian",
        "direction": "maximize",
        "range": [-1.0, 1.0],
        "attribution_window": "1h",
    },
    {
        "name": "complaint",
        "kind": "bernoulli",
        "direction": "minimize",
        "attribution_window": "1h",
        "default_when_silent": 0.0,
    },
    {
        "name": "answered",
        "kind": "bernoulli",
        "direction": "maximize",
        "attribution_window": "1h",
        "default_when_silent": 0.0,
    },
    {
        "name": "latency",
        "kind": "gaussian",
        "direction": "minimize",
        "range": [0.0, 10_000.0],
        "attribution_window": "1h",
    },
    {
        "name": "calls",
        "kind": "poisson",
        "direction": "minimize",
        "range": [0.0, 50.0],
        "attribution_window": "1h",
    },
    {
        "name": "cost_per_call",
        "kind": "ratio",
        "direction": "minimize",
        "range": [0.0, 2.0],
        "numerator": "cost",
        "denominator": "calls",
    },
]
NAMES = [str(metric["name"]) for metric in METRICS]


def guarded(*guardrails: Mapping[str, Any], **changes: Any) -> ExperimentSpec:
    """Arms control, small and large; the metrics above; guardrails with their fields, named g0, g1, ..."""
    named = [{"name": f"g{index}", **guardrail} for index, guardrail in enumerate(guardrails)]
    values: dict[str, Any] = {"metrics": METRICS, "objective": [{"metric": "satisfied"}], "guardrails": named}
    return spec(**{**values, **changes})


def period(
    of: ExperimentSpec,
    number: int,
    counts: Mapping[str, Sequence[tuple[int, float] | Sequence[float]]],
    *,
    shares: Sequence[float] = (0.8, 0.1, 0.1),
    assigned: Sequence[int] | None = None,
    centres: Mapping[str, float] | None = None,
    open_: bool = False,
    cohort: int = 0,
) -> Period:
    """One period of a minute, the n-th since NOW. ``counts``: per metric and arm, (n, ones) of a bernoulli metric or
    the values of another. ``assigned`` defaults to the most rewards of any metric; ``centres`` are scaled, else 0.
    """
    cells = Cells.zeros(layout_of(of))
    for name, by_arm in counts.items():
        index = of.metric_index(name)
        assert index is not None
        for arm, given in enumerate(by_arm):
            fill(cells.sums[cohort, arm], of, index, given)
    for channel, at in of.columns.items():
        if channel.kind is ChannelKind.PAIR:
            one, two = (of.metrics[each] for each in (channel.metric, channel.other))
            for arm, pair in enumerate(zip(counts.get(one.name, ()), counts.get(two.name, ()), strict=False)):
                if MetricKind.BERNOULLI not in (one.kind, two.kind):
                    products = [scaled(one, x) * scaled(two, y) for x, y in zip(*pair, strict=False)]
                    cells.sums[cohort, arm, at] = moments(products)
    cells.exposures[cohort] = cells.sums[cohort, :, :, 0].max(axis=1) if assigned is None else assigned
    named = centres or {}
    start = NOW + number * LIFE_MS
    return Period(
        number=number,
        last=number,
        epoch=1,
        start_ms=start,
        end_ms=0 if open_ else start + LIFE_MS,
        shares_ppm=tuple(round(share * 1e6) for share in shares),
        centres=tuple(named.get(metric.name, 0.0) for metric in of.metrics),
        cells=cells,
    )


def fill(sums: Any, of: ExperimentSpec, index: int, given: Any) -> None:
    """The channels of one metric in ``sums`` [C, 4]: of (n, ones), or of values."""
    metric = of.metrics[index]
    if metric.kind is MetricKind.BERNOULLI:
        sums[index] = [given[0], given[1] * ONE, given[1] * ONE, 0]
        return
    values = [scaled(metric, value) for value in given]
    for channel, at in of.columns.items():
        if channel.metric != index:
            continue
        if channel.kind is ChannelKind.VALUE:
            sums[at] = moments(values)
        if channel.kind is ChannelKind.CUBE:
            sums[at] = moments([value**3 for value in values])
        if channel.kind is ChannelKind.ABOVE:
            sums[at] = moments([float(value > channel.threshold) for value in given])


def scaled(metric: Metric, value: float) -> float:
    """In [0, 1]."""
    low, high = metric.scale
    return (value - low) / (high - low)


def moments(values: Sequence[float]) -> list[int]:
    """[n, sum, high and low of the squares] of values in [0, 1], as the ledger adds them."""
    q = [quantise(value, 0.0, 1.0) for value in values]
    high, low = divmod(sum(each * each for each in q), ONE)
    return [len(q), sum(q), high, low]


def merged(*parts: Period) -> Period:
    """Periods of one number, added: for cohorts."""
    whole = parts[0].cells.copy()
    for part in parts[1:]:
        whole.add(part.cells)
    return replace(parts[0], cells=whole)


def stacked(of: ExperimentSpec, periods: Sequence[Period]) -> PeriodTable:
    """The periods as a table."""
    return table(periods, layout_of(of))


def split(of: ExperimentSpec, periods: Sequence[Period]) -> PeriodTable:
    """The periods as a table with a row per cohort."""
    return split_table(periods, layout_of(of))


def standings(of: ExperimentSpec, *, attempt: int = 1, since: int = 0) -> list[ArmStanding]:
    """All arms live."""
    return [ArmStanding(attempt, since, True)] * len(of.arms)


def judged(
    of: ExperimentSpec,
    periods: Sequence[Period],
    *,
    arms: Sequence[ArmStanding] | None = None,
    folded: Folded | None = None,
    now_ms: int = LONG_AFTER,
) -> dict[tuple[str, str], Verdict]:
    """Verdicts by (arm name, guardrail name)."""
    verdicts = judge(
        of,
        stacked(of, periods),
        Folded.empty_of(of) if folded is None else folded,
        standings(of) if arms is None else arms,
        now_ms,
        split(of, periods),
    )
    return {
        (
            of.arms[verdict.arm].name,
            f"{verdict.guardrail}{f'/{verdict.cohort}' if verdict.cohort else ''}",
        ): verdict
        for verdict in verdicts
    }


def doubled(each: Period) -> Period:
    """The same period with every count twice."""
    cells = each.cells.copy()
    cells.add(each.cells)
    return replace(each, cells=cells)


def random_periods(of: ExperimentSpec, seed: int, count: int, *, open_last: bool = False) -> list[Period]:
    """``count`` periods with random shares, centres and outcomes of every metric; some arms without traffic."""
    rng = np.random.default_rng(seed)
    arms = len(of.arms)
    periods = []
    for number in range(count):
        shares = rng.dirichlet(np.ones(arms))
        if rng.random() < 0.2:
            shares[rng.integers(arms)] = 0.0
        shares /= shares.sum()
        assigned = rng.binomial(400, shares)
        counts: dict[str, list[Any]] = {}
        for metric in of.metrics:
            answered = rng.binomial(assigned, 0.8)
            if metric.kind is MetricKind.BERNOULLI:
                rate = rng.uniform(0.01, 0.3)
                counts[metric.name] = [(int(n), int(rng.binomial(n, rate))) for n in answered]
            elif metric.kind is MetricKind.POISSON:
                counts[metric.name] = [list(rng.poisson(2.0, n).astype(float)) for n in answered]
            elif metric.kind is not MetricKind.RATIO:
                low, high = metric.range
                counts[metric.name] = [list(rng.uniform(low, high, n)) for n in answered]
        centres = {metric.name: float(rng.uniform(0, 0.3)) for metric in of.metrics}
        periods.append(
            period(
                of,
                number,
                counts,
                shares=[float(share) for share in shares],
                assigned=[int(n) for n in assigned],
                centres=centres,
                open_=open_last and number == count - 1,
            )
        )
    return periods
