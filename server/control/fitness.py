"""Is the store fit to be learnt with? Asked at the start and now and then; one that is not forbids learning."""

from __future__ import annotations

import structlog

from bandit.errors import StoreUnavailable
from server.clock import Clock
from server.store.base import ControlStore
from server.store.findings import Finding

log = structlog.get_logger(__name__)


class Fitness:
    """Looks at the store's findings every ``every_s`` seconds, and tells the log of what changed."""

    def __init__(self, store: ControlStore, clock: Clock, every_s: float) -> None:
        self._store = store
        self._clock = clock
        self._every_s = every_s
        self._looked_s = float("-inf")
        self._told: dict[str, Finding] = {}

    def look(self) -> None:
        """Raises StoreUnavailable while a finding forbids learning: it may lose or refuse what is learnt."""
        now_s = self._clock.monotonic_s()
        if now_s - self._looked_s < self._every_s:
            return
        rows = self._store.findings()
        fatal = [row for row in rows if row.fatal and not row.ok]
        self._tell(rows)
        if fatal:
            raise StoreUnavailable(
                "learning is forbidden until the store is fit: "
                + "; ".join(f"{row.check}: {row.seen} (wanted: {row.wanted})" for row in fatal),
                reason="STORE_UNFIT",
            )
        self._looked_s = now_s

    def _tell(self, rows: list[Finding]) -> None:
        for row in rows:
            known = self._told.get(row.check)
            if known is not None and (known.ok, known.fatal) == (row.ok, row.fatal):
                continue
            self._told[row.check] = row
            level = log.info if row.ok else log.error if row.fatal else log.warning
            level("store_checked", check=row.check, seen=row.seen, wanted=row.wanted, ok=row.ok)
