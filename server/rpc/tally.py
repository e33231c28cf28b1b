"""What the reward service received, by experiment, told to the store once a second: the same accounts as of sources.

Adding takes no lock that another call waits for long; a killed server leaves at most a second of counts untold (its
rewards are in the log all the same).
"""

from __future__ import annotations

import threading
from collections import Counter

import structlog

from bandit.errors import CorruptStored, StoreUnavailable
from bandit.log import GRPC
from server.store.fed import Burial, Feed, FeedStore

log = structlog.get_logger(__name__)

EVERY_S = 1.0
NOWHERE = ("", 0)
"""Events that named no experiment, or none that is here."""


class Tally:
    """Counts by source, slot (name of the ledger, uid of the experiment) and word of ``server.store.fed``.

    Safe for several threads.
    """

    def __init__(self, store: FeedStore, source: str = GRPC.decode()) -> None:
        self._store = store
        self._source = source
        self._counts: dict[tuple[str, tuple[str, int]], Counter[str]] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tally", daemon=True)

    def add(self, slot: tuple[str, int], counts: Counter[str], source: str = "") -> None:
        """So many more of a source; "": of the door itself."""
        with self._lock:
            self._counts.setdefault((source or self._source, slot), Counter()).update(counts)

    def start(self) -> None:
        """Begin to tell."""
        self._thread.start()

    def stop(self) -> None:
        """Tell the rest."""
        self._stop.set()
        self._thread.join(EVERY_S)
        self.tell()

    def tell(self) -> None:
        """Tell the store what came since; what it does not take is told next time."""
        with self._lock:
            told, self._counts = self._counts, {}
        while told:
            (source, slot), counts = told.popitem()
            try:
                if slot == NOWHERE:
                    self._store.bury(Burial(source, counts=counts))
                else:
                    self._store.feed(Feed(*slot, source, counts=counts))
            except StoreUnavailable:
                # Whether it was taken is not known. Rather a second untold than one told twice.
                with self._lock:
                    for left, more in told.items():
                        self._counts.setdefault(left, Counter()).update(more)
                return
            except CorruptStored as error:
                log.warning("tally_refused", experiment=slot[0], reason=str(error))

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            self.tell()
