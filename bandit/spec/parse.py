"""The one way in for specs: YAML text or plain mappings to an ExperimentSpec, or every mistake at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

from pydantic import BaseModel, ValidationError

from bandit.errors import InvalidArgument, Violation
from bandit.spec.check import findings
from bandit.spec.finding import Loc, dotted
from bandit.spec.mend import mend, touches, value_at
from bandit.spec.model import ExperimentSpec
from bandit.spec.plain import Plain
from bandit.spec.sentences import Seen, explain, suggest
from bandit.spec.tree import UNREAD, Tree, read

MAX_PROBLEMS = 200

Part = TypeVar("Part", bound=BaseModel)
Check: TypeAlias = Callable[[Part], Iterable[tuple[Loc, str]]]


class _Problem(NamedTuple):
    """A mistake at ``loc`` (at its key, with ``key``), already told or still to be explained."""

    loc: Loc
    told: str | Seen
    key: bool = False

    def sentence(self) -> str:
        return self.told if isinstance(self.told, str) else explain(self.told)

    def meant(self) -> Loc | None:
        """The field that an unknown key probably stands for."""
        near = (
            suggest(self.loc, self.told.root)
            if isinstance(self.told, Seen) and self.told.kind == "extra_forbidden"
            else None
        )
        return (*self.loc[:-1], *near) if near else None


def parse_yaml(text: str, path: str = "<spec>") -> ExperimentSpec:
    """The spec in one YAML document of at most 256 KiB.

    Raises InvalidArgument with all mistakes (the first 200): its text has one line for each, in the order of the
    file, ``path:line:column: field: sentence``; its violations hold the same fields and sentences.
    """
    tree = read(text)
    spec: ExperimentSpec | None = None
    problems: list[_Problem] = []
    if tree.root is not UNREAD:
        spec, problems = _build(tree.root, tree.written, [fault.loc for fault in tree.faults])
    if spec is not None and not tree.faults:
        return spec
    raise _placed(tree, problems, path)


def parse_model(text: str, path: str, model: type[Part], begin: str, check: Check[Part]) -> Part:
    """A document of another kind, such as a world, by the same rules and with the same errors as a spec.

    ``model``: its type, made of the parts of a spec file. ``begin``: how it may begin. ``check``: (path, sentence) of
    each rule between its fields that is broken; it is asked once all fields are right.
    """
    tree = read(text, begin)
    found: Part | None = None
    problems: list[_Problem] = []
    if tree.root is not UNREAD:
        try:
            found = model.model_validate(tree.root)
        except ValidationError as error:
            problems = _field_problems(error, tree.written, model)
        else:
            problems = [_Problem(loc, sentence) for loc, sentence in check(found)]
    if found is not None and not tree.faults and not problems:
        return found
    raise _placed(tree, problems, path)


def _placed(tree: Tree, problems: Iterable[_Problem], path: str) -> InvalidArgument:
    """The refusal of a document, its mistakes in the order of the file."""
    hidden = [fault.loc for fault in tree.faults if fault.hides]
    places = [(fault.mark, _Problem(fault.loc, fault.sentence)) for fault in tree.faults]
    places += [
        (tree.where(problem.loc, key=problem.key), problem)
        for problem in problems
        if not _within(problem.loc, hidden)
    ]
    places.sort(key=lambda place: place[0])
    return _refusal(
        [problem for _, problem in places], [f"{path}:{mark.line}:{mark.column}: " for mark, _ in places]
    )


def parse_mapping(value: Mapping[str, object], field_prefix: str = "spec") -> ExperimentSpec:
    """The spec in plain values: mappings, lists, text, numbers, booleans and None.

    Raises InvalidArgument with all mistakes (the first 200); fields of its violations begin with ``field_prefix``.
    """
    plain = Plain()
    root = plain.copy(value)
    spec: ExperimentSpec | None = None
    problems: list[_Problem] = []
    if root is not UNREAD:
        spec, problems = _build(root, {}, [loc for loc, _ in plain.faults])
    if spec is not None and not plain.faults:
        return spec
    hidden = [loc for loc, _ in plain.faults]
    faults = [_Problem(loc, sentence) for loc, sentence in plain.faults]
    faults += [problem for problem in problems if not _within(problem.loc, hidden)]
    raise _refusal(faults, [""] * len(faults), field_prefix)


def _refusal(problems: Sequence[_Problem], places: Sequence[str], prefix: str = "") -> InvalidArgument:
    violations = [
        Violation(".".join(filter(None, (prefix, dotted(problem.loc)))) or "spec", problem.sentence())
        for problem in problems[:MAX_PROBLEMS]
    ]
    lines = [
        f"{place}{violation.field}: {violation.description}"
        for place, violation in zip(places, violations, strict=False)
    ]
    if len(problems) > MAX_PROBLEMS:
        lines.append(f"{places[MAX_PROBLEMS]}and {len(problems) - MAX_PROBLEMS} more; mend these first")
    return InvalidArgument("\n".join(lines), violations=violations)


def _within(loc: Loc, others: Iterable[Loc]) -> bool:
    return any(loc[: len(other)] == other for other in others)


def _build(
    value: object, written: Mapping[Loc, str], faulty: list[Loc]
) -> tuple[ExperimentSpec | None, list[_Problem]]:
    """The spec of plain values; else the mistakes in its fields, and between those of its fields that are right."""
    problems: list[_Problem] = []
    spec: ExperimentSpec | None = None
    try:
        whole: ExperimentSpec | None
        spec = whole = ExperimentSpec.model_validate(value)
    except ValidationError as error:
        problems = _field_problems(error, written)
        meant = [
            loc
            for problem in problems[:MAX_PROBLEMS]
            if (loc := problem.meant()) and value_at(value, loc) is None
        ]
        faulty = [*faulty, *(problem.loc for problem in problems), *meant]
        whole = mend(value, [problem.loc for problem in problems])
    if whole is not None:
        problems += [
            _Problem(finding.loc, finding.sentence)
            for finding in findings(whole)
            if not any(touches(loc, read) for loc in faulty for read in finding.reads)
        ]
    return (None if problems else spec), problems


def _field_problems(
    error: ValidationError, written: Mapping[Loc, str], root: type[BaseModel] = ExperimentSpec
) -> list[_Problem]:
    found: dict[tuple[Loc, str], _Problem] = {}
    for each in error.errors(include_url=False):
        loc, kind, value, terms = each["loc"], each["type"], each["input"], each.get("ctx", {})
        if kind == "too_short" and isinstance(value, list) and len(value) >= terms["min_length"]:
            # Items with mistakes of their own are not counted, so the length is no second mistake.
            continue
        if kind == "missing" and isinstance(loc[-1], int):
            kind, loc, terms = "too_short", loc[:-1], {}
        key = loc[-1:] == ("[key]",)
        loc = loc[:-1] if key else loc
        seen = Seen(kind, loc, value, terms, None if key else written.get(loc), each["msg"], root)
        found.setdefault((loc, kind), _Problem(loc, seen, key or kind == "extra_forbidden"))
    return list(found.values())
