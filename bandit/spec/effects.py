"""What a change of a spec does, in a few words for the person who applies it; it decides nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from bandit.spec.effects_guardrails import guardrail_effect
from bandit.spec.finding import ANY, Loc, listed
from bandit.spec.model import PPM, Arm, Direction, ExperimentSpec

EPOCH = "starts a new epoch, statistics begin anew"
RESTART = "guardrails begin their evidence anew"
_KEPT = "weights may shift at once, statistics are kept"


class _Edit(NamedTuple):
    """One change: its path, its values, and the specs around it (``old`` None: the experiment is new)."""

    loc: Loc
    before: Any
    after: Any
    old: ExperimentSpec | None
    new: ExperimentSpec


def effect_of(
    loc: Loc, before: object, after: object, old: ExperimentSpec | None, new: ExperimentSpec
) -> str:
    """The fragment for a change at ``loc``, whose second part is a name where its first is a list."""
    named = loc[0] in ("arms", "metrics", "objective", "constraints", "guardrails", "features")
    pattern = tuple(ANY if index == 1 and named else part for index, part in enumerate(loc))
    while pattern not in _EFFECTS:
        pattern = pattern[:-1]
    words = _EFFECTS[pattern](_Edit(loc, before, after, old, new))
    return words if old is not None else words.removesuffix(f"; {EPOCH}").removesuffix(f"; {RESTART}")


def begins_anew(words: str) -> str:
    """The fragment of a change that, with other things, makes rewards count in other sums."""
    return words if EPOCH in words else f"{words.removesuffix(f'; {_KEPT}')}; {EPOCH}"


def _per_cent(share: float) -> str:
    return f"{share * 100:.6g} %"


def _arm(spec: ExperimentSpec, name: str) -> tuple[Arm, tuple[int, int, int]]:
    index = next(index for index, arm in enumerate(spec.arms) if arm.name == name)
    return spec.arms[index], spec.bounds_ppm(index)


def _whole_arm(edit: _Edit) -> str:
    if edit.after is None:
        return f"its traffic goes to the other arms; {EPOCH}"
    arm, (floor, cap, _) = _arm(edit.new, str(edit.loc[1]))
    role = "the control, everything falls back to it" if arm.control else "a challenger"
    return f"{role}; takes {_per_cent(floor / PPM)} to {_per_cent(cap / PPM)} of the traffic; {EPOCH}"


def _own_bound(edit: _Edit) -> str:
    key, name = str(edit.loc[3]), str(edit.loc[1])
    which = ("floor", "cap", "ramp_per_minute").index(key)
    _, now = _arm(edit.new, name)
    words = _bound(key, now[which] / PPM, "its share")
    if edit.old is not None and _arm(edit.old, name)[1][which] == now[which]:
        return f"nothing changes now, {words} already"
    return words


def _shared_bound(edit: _Edit) -> str:
    key = str(edit.loc[1])
    own = "floor" if key == "control_floor" else key
    heirs = [
        arm.name
        for arm in edit.new.arms
        if arm.control == (key == "control_floor") and getattr(arm.bounds, own) is None
    ]
    if not heirs:
        return "nothing changes now, every arm has its own"
    return _bound(key, edit.after, f"the share of {'each of ' if len(heirs) > 1 else ''}{listed(heirs)}")


def _bound(key: str, share: float, what: str) -> str:
    if key in ("floor", "control_floor"):
        return f"{what} stays at {_per_cent(share)} or above"
    if key == "cap":
        return f"{what} stays at {_per_cent(share)} or below"
    if share == 1:
        return f"{what} may rise at any speed"
    return f"{what} rises by at most {_per_cent(share)} in a minute"


def _weight(edit: _Edit) -> str:
    return (
        "its share is no longer fixed" if edit.after is None else f"its share becomes {_per_cent(edit.after)}"
    )


def _silent(edit: _Edit) -> str:
    if edit.after is None:
        return "a decision without a reward counts as missing"
    return f"a decision without a reward counts as {edit.after:g}"


def _cap(edit: _Edit) -> str:
    if edit.after is None:
        return f"rewards count in full; {EPOCH}"
    return f"rewards above {edit.after:g} count as {edit.after:g}; {EPOCH}"


def _pending(edit: _Edit) -> str:
    metric = next(each for each in edit.new.metrics if each.name == edit.loc[1])
    if metric.default_when_silent is None:
        return "nothing changes now, a decision without a reward is missing"
    if metric.weighs_pending:
        return "a decision counts by the share of rewards that would have come by its age"
    return "a decision counts when its window has closed"


def _delay(edit: _Edit) -> str:
    of_arm = edit.loc[0] == "arms"
    place = edit.new.metric_index(str(edit.loc[3 if of_arm else 1]))
    assert place is not None
    metric = edit.new.metrics[place]
    if not metric.weighs_pending:
        return "is rehearsed; nothing else changes, no decision of the metric is weighed by its age"
    arm = edit.new.arm_index(str(edit.loc[1])) if of_arm else None
    known = metric.delay if arm is None else edit.new.delays(place)[arm]
    if known is None:
        return "how late rewards come is learned from them alone, weights may shift at once"
    return f"pending decisions are weighed by {known.spelled}, until data tell it better; weights may shift at once"


def _lift(edit: _Edit) -> str:
    if edit.after is None:
        return "arms are believed to differ by as much as their rewards show"
    return f"arms are believed to differ by about {edit.after:g} before any reward, weights may shift at once"


def _term(edit: _Edit) -> str:
    weights = {term.metric: term.weight for term in edit.new.objective}
    weight = weights.get(str(edit.loc[1]))
    what = (
        "no longer part of what is maximised"
        if weight is None
        else f"{_per_cent(weight / sum(weights.values()))} of what is maximised"
    )
    return what if edit.old is None else f"{what}; {_KEPT}"


def _exploration(edit: _Edit) -> str:
    rule = edit.new.allocator
    if rule.confidence is not None:
        chance = _per_cent(rule.confidence)
        return f"an index is below the truth with at most {chance} chance, weights may shift at once"
    width = rule.width
    return f"arms are explored with {width:g} times the posterior sd, weights may shift at once"


def _feature(edit: _Edit) -> str:
    name = edit.loc[1]
    if all(feature.name != name for feature in edit.new.features):
        return f"arms are chosen whatever its value; {EPOCH}"
    return f"arms are chosen by its value; {EPOCH}"


def _apart(edit: _Edit) -> str:
    apart = edit.new.cohorts.apart if edit.new.cohorts else None
    if apart is None:
        return "all cohorts have the same shares"
    return (
        "a cohort has shares of its own once an arm's effect has another sign in it with "
        f"{_per_cent(apart.probability)} chance, after {apart.min_decisions:,} decisions"
    )


def _constraint(edit: _Edit) -> str:
    name = edit.loc[1]
    kept = next((each for each in edit.new.constraints if each.metric == name), None)
    if kept is None:
        return f"arms are preferred whatever their {name}; weights may shift at once"
    upward = next(each.direction for each in edit.new.metrics if each.name == name) is Direction.MAXIMIZE
    what = f"{'at least' if upward else 'at most'} {kept.limit:g}" if kept.limit is not None else ""
    what = what or f"within {kept.within:g} of the best"
    return (
        f"an arm is preferred as far as its mean {name} is {what}, left out when that has less than "
        f"{_per_cent(round(1 - kept.probability, 9))} chance; weights may shift at once"
    )


def _budget(edit: _Edit) -> str:
    if edit.new.budget is None:
        return "a day may cost anything"
    return (
        f"dear arms give way so that a day costs at most {edit.new.budget.per_day:g} {edit.new.budget.metric}"
    )


def _guardrail(edit: _Edit) -> str:
    name = edit.loc[1]
    guardrail = next((each for each in edit.new.guardrails if each.name == name), None)
    if guardrail is None:
        return f"{name} is no longer checked; {RESTART}"
    metric = next((each for each in edit.new.metrics if each.name == guardrail.metric), None)
    return f"{guardrail_effect(guardrail, metric)}; {RESTART}"


def _decay(edit: _Edit) -> str:
    if edit.after is None:
        return "nothing is forgotten"
    half_life = edit.after["half_life"] if isinstance(edit.after, dict) else edit.after
    return f"what was learnt weighs half after {half_life}"


def _partitions(edit: _Edit) -> str:
    if edit.old is not None:
        return "refused: an experiment keeps the partitions that it was created with"
    return f"its log and ledger are split over {edit.after} slots"


def _retention(edit: _Edit) -> str:
    if not edit.new.event_retention:
        return "counted events are kept for ten minutes; those of a source cannot be removed"
    return f"counted events are kept for {edit.after}, from now on those of a source can be removed"


def _window(edit: _Edit) -> str:
    words = f"a reward counts up to {edit.after} after its decision"
    kept = edit.new.event_retention or (edit.old is not None and edit.old.event_retention)
    return f"{words}; {EPOCH}" if kept else words


def _whole_metric(edit: _Edit) -> str:
    return f"its rewards are {'refused' if edit.after is None else 'taken'}; {EPOCH}"


def _always(words: str) -> Callable[[_Edit], str]:
    return lambda edit: words


_AGGREGATES = {
    "first": "the first counts",
    "last": "the last counts",
    "sum": "the sum counts",
    "max": "the largest counts",
}
_BASELINES = {
    "contrast": "arms are compared within periods",
    "stratified": "arms are compared within periods, and their differences may change",
    "stationary": "all periods are pooled",
}
_MODES = {
    "sticky": "units keep their arm",
    "epoch": "units are drawn anew in each epoch",
    "session": "units are drawn anew in each session",
    "request": "every decision is drawn anew",
}

_EFFECTS: dict[Loc, Callable[[_Edit], str]] = {
    ("experiment",): lambda edit: "a new experiment" if edit.old is None else "another experiment",
    ("hypothesis",): _always("words only, nothing else changes"),
    ("unit", "kind"): lambda edit: f"the arm is decided for each {edit.after}; {EPOCH}",
    ("unit", "mode"): lambda edit: f"{_MODES[str(edit.after)]}; {EPOCH}",
    ("arms",): _always(f"the arms have other positions; {EPOCH}"),
    ("arms", ANY): _whole_arm,
    ("arms", ANY, "control"): lambda edit: (
        f"{'everything falls back to it' if edit.after else 'no longer the control'}; {EPOCH}"
    ),
    ("arms", ANY, "digest"): _always(f"another build, so another arm; {EPOCH}"),
    ("arms", ANY, "metadata"): _always("callers are told so, shares do not change"),
    ("arms", ANY, "bounds"): _own_bound,
    ("arms", ANY, "prior"): _always("another belief about it before any reward, weights may shift at once"),
    ("arms", ANY, "delay"): _delay,
    ("metrics",): _always(f"the metrics have other positions; {EPOCH}"),
    ("metrics", ANY): _whole_metric,
    ("metrics", ANY, "kind"): _always(f"its rewards mean something else; {EPOCH}"),
    ("metrics", ANY, "direction"): _always(f"better becomes worse; {EPOCH}"),
    ("metrics", ANY, "range"): _always(f"other rewards are legal; {EPOCH}"),
    ("metrics", ANY, "winsorize"): _cap,
    ("metrics", ANY, "levels"): _always(f"other rewards are legal; {EPOCH}"),
    ("metrics", ANY, "scores"): _always("levels are worth something else, weights may shift at once"),
    ("metrics", ANY, "numerator"): _always(f"another ratio; {EPOCH}"),
    ("metrics", ANY, "denominator"): _always(f"another ratio; {EPOCH}"),
    ("metrics", ANY, "aggregate"): lambda edit: (
        f"of several rewards of one decision, {_AGGREGATES[edit.after]}; {EPOCH}"
    ),
    ("metrics", ANY, "corrections"): lambda edit: (
        f"its rewards can be corrected and retracted{'' if edit.after else ' only where they are remembered anyway'}"
    ),
    ("metrics", ANY, "pending"): _pending,
    ("metrics", ANY, "delay"): _delay,
    ("metrics", ANY, "plausible_lift"): _lift,
    ("metrics", ANY, "attribution_window"): _window,
    ("metrics", ANY, "default_when_silent"): _silent,
    ("metrics", ANY, "prior"): _always("another belief before any reward, weights may shift at once"),
    ("objective",): _always("another order of the terms, nothing else changes"),
    ("objective", ANY): _term,
    ("allocator", "kind"): lambda edit: (
        "shares stay as written" if edit.after == "fixed" else f"shares follow rewards by {edit.after}"
    ),
    ("allocator", "weights"): _weight,
    ("allocator", "beta"): lambda edit: (
        f"the leader has {_per_cent(edit.after)} of the traffic, before bounds"
    ),
    ("allocator", "epsilon"): lambda edit: f"{_per_cent(edit.after)} of the traffic is shared evenly",
    ("allocator", "ridge"): lambda edit: (
        f"coefficients are believed near 0 as if {edit.after:g} rewards had said so, weights may shift at once"
    ),
    ("allocator", "exploration"): _exploration,
    ("allocator", "confidence"): _exploration,
    ("features",): _always(f"the features have other positions; {EPOCH}"),
    ("features", ANY): _feature,
    ("constraints",): _always("another order of the constraints, nothing else changes"),
    ("constraints", ANY): _constraint,
    ("budget",): _budget,
    ("baseline",): lambda edit: f"{_BASELINES[edit.after]}, weights may shift at once",
    ("bounds",): _shared_bound,
    ("cohorts",): _always(f"other segments of units; {EPOCH}"),
    ("cohorts", "apart"): _apart,
    ("alpha",): lambda edit: f"{_per_cent(edit.after)} chance of any false rollback; {RESTART}",
    ("guardrails",): _always(f"another order of the guardrails; {RESTART}"),
    ("guardrails", ANY): _guardrail,
    ("decay",): _decay,
    ("partitions",): _partitions,
    ("event_retention",): _retention,
    ("rewards_without_token",): lambda edit: (
        f"rewards without a decision token are {'taken' if edit.after else 'refused'}"
    ),
}
