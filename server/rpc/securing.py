"""Waits, after an operator's change, until the store's disk or a replica has it, and tells the log; in its own thread.

The change itself is out before that: a rollback that waited for a disk would come a second later. A caller who wants to
know says so in the call's metadata (``DURABILITY``: a word of ``WORDS``); then the answer waits too, a bounded time,
and its trailing metadata say under the same key how safe the change was by then.
"""

from __future__ import annotations

import queue
import threading

import grpc
import structlog

from bandit.errors import BanditError, InvalidArgument
from server.store.base import ControlStore, Durability

log = structlog.get_logger(__name__)

DURABILITY = "banditd-durability"
WORDS = {each.name.lower(): each for each in Durability}
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

    def told(self, name: str, etag: str = "") -> Durability:
        """Wait for a change that left the experiment with this etag, or deleted it (""); how safe it is.

        MEMORY when the store does not say, or does not have the change any more: a failover came between.
        """
        safe = self.secure(name) or Durability.MEMORY
        try:
            stored = self._store.load(name)
        except BanditError:
            return Durability.MEMORY
        now = stored.experiment.etag if stored else ""
        there = _order(now)[:1] == _order(etag)[:1] and _order(now) >= _order(etag)
        return safe if there else Durability.MEMORY


def _order(etag: str) -> tuple[int, ...]:
    """uid and revision; () of no experiment."""
    return tuple(int(part, 16) for part in etag.split("-")) if etag else ()


def asks(context: grpc.ServicerContext) -> bool:
    """Does the caller want to know how safe the change is? Raises InvalidArgument for a word that is none."""
    found = [value for key, value in context.invocation_metadata() or () if key == DURABILITY]
    for word in found:
        if word not in WORDS:
            raise InvalidArgument.at(
                DURABILITY, f"{word!r} is none; send {', '.join(WORDS)}, or leave it out"
            )
    return bool(found)


def tell(context: grpc.ServicerContext, safe: Durability) -> None:
    """Say it in the answer."""
    context.set_trailing_metadata(((DURABILITY, safe.name.lower()),))
