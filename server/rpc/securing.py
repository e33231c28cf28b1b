"""Waits, after an operator's change, until the store's disk or a replica has it, and tells the log; in its own thread.

The change itself is out before that: a rollback that waited for a disk would come a second later.
"""

from __future__ import annotations

import queue
import threading

import structlog

from bandit.errors import BanditError
from server.store.base import ControlStore, Durability

log = structlog.get_logger(__name__)

_MOST = 1000


class Securing:
    """One thread, started with the first change. Safe for several threads."""

    def __init__(self, store: ControlStore) -> None:
        self._store = store
        self._names: queue.Queue[str] = queue.Queue(_MOST)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def soon(self, name: str) -> None:
        """An experiment was changed."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="securing", daemon=True)
                self._thread.start()
        try:
            self._names.put_nowait(name)
        except queue.Full:
            log.warning(
                "change_not_secured", experiment=name, reason="too many changes wait to be looked after"
            )

    def _run(self) -> None:
        while True:
            self.secure(self._names.get())

    def secure(self, name: str) -> Durability | None:
        """Wait for it; how safe it is, None when the store does not say."""
        try:
            safe = self._store.secured(name)
        except BanditError as error:
            log.warning("change_not_secured", experiment=name, reason=str(error))
            return None
        if safe is Durability.MEMORY:
            log.warning(
                "change_not_secured",
                experiment=name,
                reason="neither the store's disk nor a replica said in time that it has the change",
            )
        else:
            log.info("change_secured", experiment=name, durability=safe.name.lower())
        return safe
