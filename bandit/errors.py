"""Every error a caller can meet, as one tree; it holds no handling and knows no transport.

::

    BanditError                 reason + metadata; str() is one sentence: what was seen, what is allowed, what to do
    ├── InvalidArgument         a field is wrong; carries every violation at once     caller mends it, no retry
    ├── NotFound                no such experiment, arm, request                      no retry
    ├── AlreadyExists           the name is taken                                     no retry
    ├── Stale                   etag, generation, lease or epoch moved on             read again, then retry
    ├── NotAllowed              the present state forbids it                          change the state first
    ├── Rejected                one reward is not counted (reason says why)           per item, never fails a batch
    ├── StoreUnavailable        the store did not answer                              retry with backoff
    ├── CorruptStored           what is stored cannot be read                         restore or delete it
    └── Overloaded              a limit on rate, size or streams                      retry later
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, NamedTuple


class BanditError(Exception):
    """Base of all errors of the project.

    ``reason`` is an UPPER_SNAKE word for machines, ``metadata`` the values that the sentence names.
    """

    default_reason: ClassVar[str] = "UNKNOWN"

    def __init__(self, message: str, *, reason: str = "", **metadata: object) -> None:
        super().__init__(message)
        self.reason = reason or self.default_reason
        self.metadata = {key: str(value) for key, value in metadata.items()}


class Violation(NamedTuple):
    """One wrong field: its dotted path and a sentence (what was seen, what is allowed, what to do)."""

    field: str
    description: str


class InvalidArgument(BanditError):
    """A request or document is wrong. Raised by parsers and borders; retrying the same input fails again."""

    default_reason = "INVALID_ARGUMENT"

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        violations: Iterable[Violation] = (),
        **metadata: object,
    ) -> None:
        super().__init__(message, reason=reason, **metadata)
        self.violations = tuple(violations)

    @classmethod
    def at(cls, field: str, description: str) -> InvalidArgument:
        """The usual case: one field is wrong."""
        return cls(f"{field}: {description}", violations=(Violation(field, description),), field=field)


class NotFound(BanditError):
    """Something named does not exist. Raised by stores and look-ups."""

    default_reason = "NOT_FOUND"


class AlreadyExists(BanditError):
    """The name is taken by another object. Raised on create."""

    default_reason = "ALREADY_EXISTS"


class Stale(BanditError):
    """Somebody changed it since it was read (etag, generation, epoch, lease). Read again, then retry."""

    default_reason = "STALE"


class NotAllowed(BanditError):
    """The present state forbids the action. Raised by state transitions; change the state first."""

    default_reason = "NOT_ALLOWED"


class Rejected(BanditError):
    """One reward is not counted. Reported per item; the rest of its batch goes on."""

    default_reason = "REJECTED"


class StoreUnavailable(BanditError):
    """The store did not answer in time or refused writes. Retry with backoff; nothing is half-done."""

    default_reason = "STORE_UNAVAILABLE"


class CorruptStored(BanditError):
    """What the store holds cannot be read. Raised by codecs; servers keep their last-good state."""

    default_reason = "CORRUPT_STORED"


class Overloaded(BanditError):
    """A limit on size, rate or streams was reached. Retry later, or smaller."""

    default_reason = "OVERLOADED"
