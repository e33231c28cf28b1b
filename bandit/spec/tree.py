"""YAML text to plain values that know their line and column; takes no alias, anchor, tag or second document.

So the work is linear in the size of the text, and a file means the same to every reader.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

import yaml

from bandit.spec.finding import Loc, cut
from bandit.spec.scalar import resolve

MAX_BYTES = 256 * 1024
MAX_DEPTH = 16
MAX_NODES = 20_000

# Stands in paths for a key that is no scalar.
_OTHER = "?"

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_LINE_END = re.compile(r"\r\n|\n|\r")
# YAML's unprintable characters, and its line ends that no editor shows as such.
_HIDDEN = re.compile("[^\t\n\r -~\u00a0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
# Part of the parser's message: what to tell the operator instead.
_SYNTAX = (
    ("'\\t'", "a tab; YAML indents with spaces only: replace the tab"),
    ("tab character", "a tab; YAML indents with spaces only: replace the tab"),
    (
        "mapping values are not allowed",
        "a key where none can be; check the indentation and the space after each colon, or quote the text",
    ),
    (
        "could not find expected ':'",
        "a key without ': '; write `key: value`, with a space after the colon, and close quotes",
    ),
    ("expected ',' or ']'", "this list is not closed; separate its items with ',' and end it with ']'"),
    ("expected ',' or '}'", "this mapping is not closed; separate its entries with ',' and end it with '}'"),
    ("unexpected end of stream", "these quotes are not closed; end the text with the same quote"),
    (
        "expected key",
        "this line does not continue the mapping above; give its keys the same indentation, in spaces",
    ),
    ("expected '-' indicator", "this line does not continue the list above; begin each item with '- '"),
    ("maximum nesting depth", "brackets within brackets without end; close each list and mapping"),
    ("expected node content", "a value is missing here; write it, and quote text that begins with , ] or }"),
    (
        "unknown escape",
        "a backslash that YAML does not know; use single quotes, or write \\\\ for a backslash",
    ),
    ("cannot start any token", "a character that cannot begin a value; put the text in quotes"),
)


class Mark(NamedTuple):
    """A place in the text; the first line and the first column are 1."""

    line: int
    column: int


class Fault(NamedTuple):
    """Something that YAML allows and a spec does not; ``hides``: the value at ``loc`` could not be read."""

    loc: Loc
    mark: Mark
    sentence: str
    hides: bool = False


class Unread:
    """Stands for a value that could not be read."""


UNREAD = Unread()


@dataclass(slots=True)
class Tree:
    """The plain values of a document and where each is; ``root`` is UNREAD when nothing could be read."""

    root: object = UNREAD
    values: dict[Loc, Mark] = field(default_factory=dict)
    keys: dict[Loc, Mark] = field(default_factory=dict)
    written: dict[Loc, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def where(self, loc: Loc, *, key: bool = False) -> Mark:
        """Place of the value at ``loc`` (or of its key), else of the nearest thing around it."""
        while loc:
            here = self.keys.get(loc)
            if not (here and (key or self.written.get(loc) == "")):
                here = self.values.get(loc, here)
            if here:
                return here
            loc, key = loc[:-1], False
        return self.values.get((), Mark(1, 1))


def read(text: str, begin: str = "experiment: NAME") -> Tree:
    """Values, places and faults of one YAML document of at most MAX_BYTES. Raises nothing.

    ``begin``: how such a document may begin, told where there is none."""
    tree = Tree()
    text = text.removeprefix("\ufeff")
    if fault := _unfit(text):
        tree.faults.append(fault)
        return tree
    reader = _Reader(tree)
    try:
        for event in yaml.parse(text, _LOADER):
            reader.take(event)
    except _StopReadingError as stop:
        tree.faults = [stop.fault]
    except yaml.MarkedYAMLError as error:
        tree.faults = [_syntax_fault(error, _LINE_END.split(text))]
    except yaml.YAMLError as error:
        tree.faults = [Fault((), Mark(1, 1), f"not YAML ({error}); mend the text")]
    else:
        if tree.root in (UNREAD, None) and not tree.faults:
            tree.faults = [Fault((), Mark(1, 1), f"the file is empty; begin it with `{begin}`")]
            tree.root = UNREAD
        return tree
    tree.root = UNREAD
    return tree


def _unfit(text: str) -> Fault | None:
    size = len(text)
    if size <= MAX_BYTES:
        size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        return Fault((), Mark(1, 1), f"at least {size} bytes; a spec has at most {MAX_BYTES}: shorten it")
    if hidden := _HIDDEN.search(text):
        lines = _LINE_END.split(text[: hidden.start()])
        return Fault(
            (),
            Mark(len(lines), len(lines[-1]) + 1),
            f"the character U+{ord(hidden[0]):04X}, which an editor does not show; delete it, "
            "or write it as an escape in double quotes",
        )
    return None


def _syntax_fault(error: yaml.MarkedYAMLError, lines: list[str]) -> Fault:
    problem, at = error.problem or "", error.problem_mark
    if error.context_mark and re.search(r"',' or|end of stream|expected ':'", problem):
        at = error.context_mark
    line, column = (at.line, at.column) if at else (0, 0)
    if line >= len(lines):
        line, column = len(lines) - 1, len(lines[-1])
    column = min(column, len(lines[line]))
    known = next((told for part, told in _SYNTAX if part in problem), "")
    if "cannot start any token" in problem and lines[line][column : column + 1] == "\t":
        known = _SYNTAX[0][1]
    sentence = known or f"not YAML ({problem or error}); mend the text here"
    if "\u00a0" in lines[line]:
        sentence += "; the line holds a no-break space (U+00A0), which is no indentation: type a plain space"
    return Fault((), Mark(line + 1, column + 1), sentence)


class _StopReadingError(Exception):
    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.sentence)
        self.fault = fault


@dataclass(slots=True)
class _Frame:
    """An open collection; ``key`` is the pending key of a mapping, None while one is awaited."""

    loc: Loc
    holds: dict[str, object] | list[object]
    key: str | None = None
    keeps: bool = True


class _Reader:
    """Builds a Tree from the events of one document."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._open: list[_Frame] = []
        self._nodes = 0
        self._documents = 0

    def take(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.ScalarEvent):
            self._scalar(event)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self._begin(event)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self._place(self._open.pop().holds)
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)
        elif isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self._stop(
                    event, "a second document begins here; one file holds one experiment: remove the `---`"
                )

    def _awaits_key(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1].holds, dict) and self._open[-1].key is None

    def _loc(self) -> Loc:
        """Path of the value that comes next."""
        if not self._open:
            return ()
        top = self._open[-1]
        return (
            *top.loc,
            len(top.holds) if isinstance(top.holds, list) else _OTHER if top.key is None else top.key,
        )

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        self._visit(event)
        value = resolve(event.value) if event.implicit[0] else event.value
        if self._awaits_key():
            self._key(event, value)
            return
        loc = self._loc()
        if not isinstance(value, str):
            self._tree.written.setdefault(loc, event.value)
        self._place(value)

    def _key(self, event: yaml.ScalarEvent, value: object) -> None:
        top, key, mark = self._open[-1], event.value, _mark(event)
        loc = (*top.loc, key)
        top.key, top.keeps = key, key not in top.holds
        first = self._tree.keys.setdefault(loc, mark)
        if not top.keeps:
            self._fault(loc, mark, f"this key was given on line {first.line} already; keep one of the two")
        elif not isinstance(value, str):
            self._fault(
                loc,
                mark,
                f'the key {cut(key)} without quotes is not text to every YAML reader; write "{cut(key)}"',
                hides=True,
            )

    def _begin(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent) -> None:
        self._visit(event)
        if len(self._open) >= MAX_DEPTH:
            self._stop(event, f"nested deeper than {MAX_DEPTH} levels; a spec needs 4: check the indentation")
        if self._awaits_key():
            self._fault(
                self._open[-1].loc,
                _mark(event),
                "a list or mapping as a key; a key is one word: write it out",
            )
        holds: dict[str, object] | list[object] = {} if isinstance(event, yaml.MappingStartEvent) else []
        self._open.append(_Frame(self._loc(), holds))

    def _alias(self, event: yaml.AliasEvent) -> None:
        self._visit(event)
        self._fault(
            self._loc(),
            _mark(event),
            f"an alias (*{cut(event.anchor or '')}); aliases are not taken: write the value out",
            hides=True,
        )
        self._place(UNREAD)

    def _place(self, value: object) -> None:
        if not self._open:
            self._tree.root = value
            return
        top = self._open[-1]
        if isinstance(top.holds, list):
            top.holds.append(value)
        elif top.key is None:
            top.key, top.keeps = _OTHER, False
        else:
            if top.keeps:
                top.holds[top.key] = value
            top.key = None

    def _visit(self, event: yaml.NodeEvent) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self._stop(event, f"more than {MAX_NODES} values; a spec has far fewer: shorten it")
        if self._awaits_key():
            loc = self._open[-1].loc
        else:
            loc = self._loc()
            self._tree.values.setdefault(loc, _mark(event))
        if isinstance(event, yaml.AliasEvent):
            return
        if event.anchor:
            self._fault(
                loc, _mark(event), f"an anchor (&{cut(event.anchor)}); anchors are not taken: leave it out"
            )
        if getattr(event, "tag", None):
            self._fault(
                loc, _mark(event), "a tag (!...); tags are not taken: write the plain value", hides=True
            )

    def _fault(self, loc: Loc, mark: Mark, sentence: str, *, hides: bool = False) -> None:
        self._tree.faults.append(Fault(loc, mark, sentence, hides))

    def _stop(self, event: yaml.Event, sentence: str) -> None:
        raise _StopReadingError(Fault((), _mark(event), sentence))


def _mark(event: yaml.Event) -> Mark:
    at = event.start_mark
    return Mark(at.line + 1, at.column + 1) if at else Mark(1, 1)
