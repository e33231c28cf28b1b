"""What a guardrail does, in a few words for the person who applies it; it decides nothing."""

from __future__ import annotations

from bandit.spec.guardrail import Guardrail
from bandit.spec.metric import Direction, Metric
from bandit.spec.quantity import format_duration

_DEEDS = {"rollback": "rolls an arm back", "hold": "holds an arm's share", "flag": "flags an arm"}


def guardrail_effect(guardrail: Guardrail, metric: Metric | None) -> str:
    """``rolls an arm back when its cost is worse than the control's by more than 10 %``."""
    deed = _DEEDS[guardrail.action]
    words = f"{deed} {_when(guardrail, metric)}"
    return f"{words}, in any cohort" if guardrail.cohorts == "each" else words


def _when(guardrail: Guardrail, metric: Metric | None) -> str:
    if guardrail.kind == "sample_ratio" or metric is None:
        return "when its traffic does not follow its share"
    name, limit = metric.name, guardrail.limit or 0.0
    more_is_better = metric.direction is Direction.MAXIMIZE
    margin = "" if guardrail.margin == 1 else f" by more than {_per_cent(guardrail.margin - 1)}"
    bad = f"{name} = {0 if more_is_better else 1}"
    quantile = f"the {_per_cent(guardrail.quantile or 0.0)} quantile of its {name}"
    words = {
        "harm": f"when its {name} is worse than the control's{margin}",
        "became_worse": f"when its {name} becomes worse than the control's{margin}",
        "breaker": f"on a burst of {bad} that {_per_cent(limit)} cannot explain",
        "rate_limit": f"when more than {_per_cent(limit)} of its decisions have {bad}",
        "quantile_limit": f"when {quantile} is {'below' if more_is_better else 'above'} {limit:g}",
        "quantile_harm": f"when {quantile} is above the control's{margin}",
        "event_rate": f"when it has {'fewer' if more_is_better else 'more'} than {limit:g} {name} per decision",
        "silence": f"when its decisions have no {name} after {format_duration(guardrail.after)} any more",
        "response_rate": f"when {name} comes for another part of its decisions than of the control's{margin}",
        "drift": f"when its {name} moves",
    }
    return words[guardrail.kind]


def _per_cent(share: float) -> str:
    return f"{share * 100:.6g} %"
