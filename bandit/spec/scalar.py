"""What a YAML scalar without quotes stands for, by the rules that YAML 1.1 and 1.2 share; guesses nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_WORDS = frozenset(form for word in ("yes", "no", "on", "off") for form in (word, word.title(), word.upper()))
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|(0|[1-9][0-9]*)(?=[eE]))([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_NUMERAL = re.compile(
    r"[-+]?(0[0-9_]+|0o[0-7]+|0x[0-9a-fA-F_]+|0b[01_]+"
    r"|[0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?|\.[0-9][0-9_]*([eE][-+]?[0-9]+)?"
    r"|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)"
)


@dataclass(frozen=True, slots=True)
class Odd:
    """A scalar without quotes that YAML 1.1 and 1.2 read differently."""

    text: str

    def __repr__(self) -> str:
        return self.text

    @property
    def word(self) -> bool:
        """True for yes, no, on and off; False for a numeral."""
        return self.text in _WORDS


def resolve(text: str) -> object:
    """The value of a scalar without quotes: None, bool, int, float, str, or Odd where readers disagree."""
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if text in _WORDS:
        return Odd(text)
    if text[0] not in "0123456789+-.":
        return text
    if _INT.fullmatch(text):
        return int(text) if len(text) < 300 else float(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _SPECIAL.fullmatch(text):
        return float(text.replace(".", "", 1))
    return Odd(text) if _NUMERAL.fullmatch(text) else text
