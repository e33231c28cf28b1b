"""Exit codes of banditctl, and which error leads to which; the one place that knows both."""

from __future__ import annotations

from enum import IntEnum

from bandit.errors import (
    AlreadyExists,
    BanditError,
    InvalidArgument,
    NotAllowed,
    NotFound,
    Overloaded,
    Rejected,
    Stale,
    StoreUnavailable,
)


class Exit(IntEnum):
    """What a script learns from banditctl; the value is the exit code."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    INVALID = 3
    NOT_FOUND = 4
    CONFLICT = 5
    NOT_ALLOWED = 6
    UNAVAILABLE = 7
    NOT_COUNTED = 8
    STOPPED = 130


MEANING = {
    Exit.OK: "done, and seen to be done",
    Exit.UNEXPECTED: "unexpected: what the server answered or holds, or a fault of banditctl",
    Exit.USAGE: "wrong usage of banditctl",
    Exit.INVALID: "a spec, name or value is wrong",
    Exit.NOT_FOUND: "no such experiment or arm",
    Exit.CONFLICT: "it exists already, or somebody changed it meanwhile: look, then try again",
    Exit.NOT_ALLOWED: "not allowed in the present state",
    Exit.UNAVAILABLE: "no server, no store or no answer in time: try again",
    Exit.NOT_COUNTED: "a reward was not counted",
    Exit.STOPPED: "stopped by Ctrl-C, or the question was answered with no",
}

_CODES: tuple[tuple[type[BanditError], Exit], ...] = (
    (InvalidArgument, Exit.INVALID),
    (NotFound, Exit.NOT_FOUND),
    (AlreadyExists, Exit.CONFLICT),
    (Stale, Exit.CONFLICT),
    (NotAllowed, Exit.NOT_ALLOWED),
    (Rejected, Exit.NOT_COUNTED),
    (StoreUnavailable, Exit.UNAVAILABLE),
    (Overloaded, Exit.UNAVAILABLE),
)
# Known by name: the class lives beside gRPC, which a quick start does without.
_BY_CLASS_NAME = {"ServerUnavailable": Exit.UNAVAILABLE}


def code_of(error: BanditError) -> Exit:
    """The exit code for an error."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return _BY_CLASS_NAME.get(type(error).__name__, Exit.UNEXPECTED)
