"""Rules about how rewards are counted: how many sums a spec may ask for."""

from __future__ import annotations

from collections.abc import Iterator

from bandit.spec.channels import channels_of
from bandit.spec.finding import ANY, Finding
from bandit.spec.model import ExperimentSpec

MAX_CELLS = 262_144
"""Cohorts x arms x channels of one period, 8 MiB of sums: a period is written whole by each fold that changes it."""


def counting_findings(spec: ExperimentSpec) -> Iterator[Finding]:
    """More cells than a period may have."""
    try:
        channels = len(channels_of(spec))
    except (ValueError, LookupError):
        return  # a name is wrong, which is told where it stands
    cohorts = 1 + (len(spec.cohorts.values) if spec.cohorts else 0)
    cells = cohorts * len(spec.arms) * channels
    if cells > MAX_CELLS:
        yield Finding(
            ("metrics",),
            f"{cohorts} cohorts x {len(spec.arms)} arms x {channels} sums of rewards and their products are "
            f"{cells:,}, more than {MAX_CELLS:,}; declare fewer cohorts, arms, or terms of the objective",
            (("metrics", ANY), ("objective", ANY), ("cohorts",), ("arms", ANY), ("guardrails", ANY)),
        )
