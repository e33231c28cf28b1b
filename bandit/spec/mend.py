"""A spec with mistakes made whole by stand-ins, only so that rules between its right fields can still be judged."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy

from pydantic import ValidationError

from bandit.spec.finding import ANY, Loc
from bandit.spec.model import ExperimentSpec
from bandit.spec.sentences import field_at, model_at

_ROUNDS = 3
_METRIC = {"name": "stand_in", "kind": "bernoulli", "direction": "maximize"}
_STAND_INS: dict[Loc, object] = {
    ("experiment",): "stand-in",
    ("arms",): [{"name": "stand-in-0", "control": True}, {"name": "stand-in-1"}],
    ("arms", ANY): {"name": "stand-in-#"},
    ("arms", ANY, "name"): "stand-in-#",
    ("metrics",): [_METRIC],
    ("metrics", ANY): {**_METRIC, "name": "stand_in_#"},
    ("metrics", ANY, "name"): "stand_in_#",
    ("metrics", ANY, "kind"): "bernoulli",
    ("metrics", ANY, "direction"): "maximize",
    ("objective",): [{"metric": "stand_in"}],
    ("objective", ANY): {"metric": "stand_in_#"},
    ("objective", ANY, "metric"): "stand_in_#",
    ("features", ANY): {"name": "stand-in-#", "kind": "hashed", "buckets": 2},
    ("features", ANY, "name"): "stand-in-#",
    ("features", ANY, "kind"): "hashed",
    ("guardrails", ANY): {"name": "stand-in-#", "kind": "harm", "metric": "stand_in"},
    ("guardrails", ANY, "name"): "stand-in-#",
    ("guardrails", ANY, "kind"): "harm",
    ("guardrails", ANY, "metric"): "stand_in",
}


def mend(value: object, faulty: Iterable[Loc]) -> ExperimentSpec | None:
    """The spec of ``value`` with stand-ins at the ``faulty`` paths; None when that is still no spec."""
    value = deepcopy(value)
    rest = list(faulty)
    for _ in range(_ROUNDS):
        for loc in rest:
            _replace(value, loc)
        try:
            return ExperimentSpec.model_validate(value)
        except ValidationError as error:
            rest = [part["loc"] for part in error.errors(include_url=False)]
    return None


def touches(faulty: Loc, read: Loc) -> bool:
    """Whether one path is the other or lies within it; ANY in ``read`` stands for any index."""
    return all(there in (here, ANY) for here, there in zip(faulty, read, strict=False))


def value_at(value: object, loc: Loc) -> object:
    """The value at ``loc`` in plain values; None where there is none."""
    for key in loc:
        if isinstance(value, dict) and isinstance(key, str):
            value = value.get(key)
        elif isinstance(value, list) and isinstance(key, int) and key < len(value):
            value = value[key]
        else:
            return None
    return value


def _replace(value: object, loc: Loc) -> None:
    """Puts a stand-in at the innermost part of ``loc`` that has one, or leaves an optional part out."""
    for end in range(len(loc), 0, -1):
        holder, key = value_at(value, loc[: end - 1]), loc[end - 1]
        stand_in = _STAND_INS.get(tuple(ANY if isinstance(part, int) else part for part in loc[:end]))
        if isinstance(holder, list) and isinstance(key, int) and key < len(holder) and stand_in is not None:
            holder[key] = _numbered(stand_in, key)
            return
        if isinstance(holder, dict) and isinstance(key, str):
            if stand_in is not None:
                index = next((part for part in reversed(loc) if isinstance(part, int)), 0)
                holder[key] = _numbered(stand_in, index)
                return
            if _optional(loc[:end]):
                holder.pop(key, None)
                return


def _optional(loc: Loc) -> bool:
    model, field = model_at(loc[:-1]), field_at(loc)
    if model is None:
        return False
    return loc[-1] not in model.model_fields or (field is not None and not field.is_required())


def _numbered(stand_in: object, index: int) -> object:
    if isinstance(stand_in, str):
        return stand_in.replace("#", str(index))
    if isinstance(stand_in, dict):
        return {key: _numbered(part, index) for key, part in stand_in.items()}
    return deepcopy(stand_in)
