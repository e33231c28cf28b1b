"""What one spec changes in another: matched by names, never by positions, each change with what it does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from bandit.spec.channels import channels_of, remembers
from bandit.spec.effects import begins_anew, effect_of
from bandit.spec.finding import Loc, dotted
from bandit.spec.metric import Metric
from bandit.spec.model import ExperimentSpec
from bandit.spec.render import to_mapping, to_short_mapping

# Sections that are lists, and the key that names an item.
_LISTS = {
    "arms": "name",
    "metrics": "name",
    "objective": "metric",
    "constraints": "metric",
    "guardrails": "name",
    "features": "name",
}

# Sections that are one thing: they come and go as a whole.
_WHOLE = ("budget", "cohorts", "decay")


@dataclass(frozen=True, slots=True)
class Change:
    """One changed field: ``path`` with names (``arms.candidate.bounds.cap``), JSON-able values as in the file.

    None stands for "not there" or "left out". ``effect`` is a fragment that says what the change does.
    """

    path: str
    before: object
    after: object
    effect: str


def diff(old: ExperimentSpec | None, new: ExperimentSpec) -> tuple[Change, ...]:
    """All changes from ``old`` (None: nothing was there) to ``new``, in the file's order; empty when equal.

    What a file writes out at its default is no change.
    """
    changes: list[Change] = []
    for loc, before, after in _created(new) if old is None else _changed(old, new):
        words = effect_of(loc, before, after, old, new)
        if old is not None and _counts_anew(loc, old, new):
            words = begins_anew(words)
        changes.append(Change(dotted(loc), before, after, words))
    return tuple(changes)


def new_epoch(old: ExperimentSpec, new: ExperimentSpec) -> bool:
    """Whether statistics must not cross the change: other arms, builds, metrics, cohorts, units or channels."""
    return _meaning(old) != _meaning(new) or (
        bool(old.event_retention or new.event_retention) and _windows(old) != _windows(new)
    )


def restarts_guardrails(old: ExperimentSpec, new: ExperimentSpec) -> bool:
    """Whether guardrails must begin their evidence anew: other guardrails or another alpha."""
    return (old.guardrails, old.alpha) != (new.guardrails, new.alpha)


def _meaning(spec: ExperimentSpec) -> tuple[object, ...]:
    return (
        [(arm.name, arm.digest, arm.control) for arm in spec.arms],
        [_counted(metric) for metric in spec.metrics],
        (spec.cohorts.attribute, spec.cohorts.values) if spec.cohorts else None,
        spec.unit,
        spec.features,
        _sums(spec),
    )


def _windows(spec: ExperimentSpec) -> list[float]:
    """Where events are kept, they are judged anew by the windows of their epoch, which must not change in it."""
    return [metric.attribution_window for metric in spec.metrics]


def _sums(spec: ExperimentSpec) -> tuple[object, ...]:
    """What is added up: channels, which values are remembered, what the delay of a reward is measured against, and
    what silence means, which is added up where old periods are folded."""
    return (
        channels_of(spec),
        remembers(spec),
        spec.learned,
        [
            (metric.attribution_window if metric.weighs_pending else None, metric.default_when_silent)
            for metric in spec.metrics
        ],
    )


# Parts whose change may alter what is added up: the sections' items, or single fields of them.
_ADDED_UP = {
    "metrics": ("pending", "default_when_silent", "attribution_window", "corrections"),
    "objective": (),
    "guardrails": None,
}


def _counts_anew(loc: Loc, old: ExperimentSpec, new: ExperimentSpec) -> bool:
    """Would the changed item alone alter what is added up?"""
    section = str(loc[0])
    if section not in _ADDED_UP or len(loc) < 2:
        return False
    own = _ADDED_UP[section]
    if len(loc) > 2 and own is not None and loc[2] not in own:
        return False
    was, now = (
        {getattr(item, _LISTS[section]): item for item in getattr(spec, section)} for spec in (old, new)
    )
    mixed = {**was, loc[1]: now.get(loc[1])}
    items = tuple(item for item in mixed.values() if item is not None)
    try:
        # Not a copy: that would bring along what the old one found out about itself.
        fields = {name: getattr(old, name) for name in ExperimentSpec.model_fields}
        return _sums(ExperimentSpec.model_construct(**{**fields, section: items})) != _sums(old)
    except ValueError:  # it speaks of a metric that is new, which says so itself
        return False


def _counted(metric: Metric) -> tuple[object, ...]:
    """What decides how a metric's rewards are counted; the rest only says how sums are read."""
    return (
        metric.name,
        metric.kind,
        metric.direction,
        metric.range,
        metric.winsorize,
        metric.levels,
        metric.numerator,
        metric.denominator,
        metric.aggregate,
    )


def _created(new: ExperimentSpec) -> Iterator[tuple[Loc, Any, Any]]:
    for section, value in to_short_mapping(new).items():
        if section in _LISTS:
            yield from (((section, name), None, item) for name, item in _short_items(new, section).items())
        else:
            one = section in _WHOLE or not isinstance(value, Mapping)
            yield from _leaves((section,), None if one else {}, value)


def _changed(old: ExperimentSpec, new: ExperimentSpec) -> Iterator[tuple[Loc, Any, Any]]:
    before, after = to_mapping(old), to_mapping(new)
    for section in after:
        if section in _LISTS:
            yield from _changed_items(section, old, new, before[section], after[section])
        elif before[section] != after[section]:
            yield from _leaves((section,), before[section], after[section])


def _changed_items(
    section: str, old: ExperimentSpec, new: ExperimentSpec, before: list[Any], after: list[Any]
) -> Iterator[tuple[Loc, Any, Any]]:
    key = _LISTS[section]
    was, now = ({item[key]: item for item in items} for items in (before, after))
    gone, come = _short_items(old, section), _short_items(new, section)
    yield from (((section, name), gone[name], None) for name in was if name not in now)
    for name, item in now.items():
        if name not in was:
            yield (section, name), None, come[name]
        elif was[name] != item:
            yield from _leaves((section, name), was[name], item)
    kept = [name for name in was if name in now]
    if kept != [name for name in now if name in was]:
        yield (section,), list(was), list(now)


def _leaves(loc: Loc, before: Any, after: Any) -> Iterator[tuple[Loc, Any, Any]]:
    """The changed parts below ``loc``; a part that was or becomes None is one change."""
    if isinstance(after, Mapping) and isinstance(before, Mapping):
        for key in {**before, **after}:
            if before.get(key) != after.get(key):
                yield from _leaves((*loc, key), before.get(key), after.get(key))
    else:
        yield loc, before, after


def _short_items(spec: ExperimentSpec, section: str) -> dict[str, Any]:
    items: tuple[BaseModel, ...] = getattr(spec, section)
    return {getattr(item, _LISTS[section]): to_short_mapping(item) for item in items}
