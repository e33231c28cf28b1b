"""Grounds on which the contract suite tries each kind of source: a place to send events to, and sources that read it.

A new kind gives one ground here (``GROUNDS``); the suite does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from server.ingest.base import RewardSource

Headers = Mapping[str, str]


class Ground(Protocol):
    """One real place of events (a broker, a server, a folder), empty at first."""

    def send(self, bodies: Sequence[bytes], headers: Headers | None = None) -> None:
        """Put events there, in this order, and return when they are durable there."""

    def source(self) -> RewardSource:
        """A new source on it, not opened yet; under the same name each time, as after a restart of the process."""

    def crash(self, source: RewardSource) -> None:
        """As if the process of this source was killed: nothing is acknowledged, nothing is said goodbye."""


Grounds = Callable[[Path], AbstractContextManager[Ground]]
GROUNDS: dict[str, Grounds] = {}
