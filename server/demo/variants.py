"""The demo's three variants as they truly are, which the service has to find out; nothing here is told to it."""

from __future__ import annotations

from importlib.resources import files

from bandit.simulate import Law, Phase, Timing, World
from bandit.spec.model import ExperimentSpec
from bandit.spec.parse import parse_yaml

WINNER = "tuned"
CULPRIT = "fast"
SEED = 20261125
# Classifiers and meters answer at once; seven users in ten say, after a moment, whether they were satisfied.
TIMING = {
    "satisfied": Timing(least=0.3, more=0.5, most=2.5, answered=0.7),
    "cost_usd": Timing(least=0.05),
    "unsafe": Timing(least=0.1, more=0.1, most=0.8),
    "latency_ms": Timing(least=0.05),
}


def demo_spec() -> ExperimentSpec:
    """The experiment of the demo."""
    source = files("server.demo") / "demo.yaml"
    return parse_yaml(source.read_text(encoding="utf-8"), "demo.yaml")


def demo_world(spec: ExperimentSpec, misbehaves_s: float, seed: int = SEED) -> World:
    """``tuned`` is better than ``baseline`` in everything. ``fast`` is the cheapest by far and looks best, until
    after ``misbehaves_s`` one of its answers in twelve is unsafe."""
    tempting = _variant(satisfied=0.74, cost_usd=0.004, unsafe=0.003, latency_ms=450.0)
    misbehaving = _variant(satisfied=0.66, cost_usd=0.004, unsafe=0.083, latency_ms=450.0)
    return World(
        metrics=spec.metrics,
        phases={
            "baseline": [
                Phase(0.0, _variant(satisfied=0.62, cost_usd=0.012, unsafe=0.003, latency_ms=1200.0))
            ],
            "tuned": [Phase(0.0, _variant(satisfied=0.72, cost_usd=0.009, unsafe=0.002, latency_ms=1000.0))],
            "fast": [Phase(0.0, tempting), Phase(misbehaves_s, misbehaving)],
        },
        timing=TIMING,
        seed=seed,
    )


def _variant(*, satisfied: float, cost_usd: float, unsafe: float, latency_ms: float) -> dict[str, Law]:
    return {
        "satisfied": Law(satisfied),
        "cost_usd": Law(cost_usd, cost_usd / 5),
        "unsafe": Law(unsafe),
        "latency_ms": Law(latency_ms, latency_ms / 5),
    }
