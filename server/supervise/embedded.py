"""The embedded store as a part to keep running."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

from server.store.embedded import Embedded
from server.supervise.signals import Signals


class EmbeddedStore:
    """Launches it, again and again when need be; ``url`` is where it listens, and stays the same."""

    def __init__(self, folder: Path, signals: Signals) -> None:
        self._server = Embedded(folder)
        self._signals = signals

    @property
    def url(self) -> str:
        """Where it listens, once it was launched."""
        return self._server.url

    def launch(self) -> EmbeddedProcess:
        """Start it and wait until it has loaded what it kept, which may take minutes; a signal cuts that short."""
        self._server.stop()
        with self._signals.cut_short():
            self._server.start()
        return EmbeddedProcess(self._server)

    def stop(self) -> None:
        """See that it is gone, whatever happened."""
        self._server.stop()


class EmbeddedProcess:
    """A Process (see ``child``)."""

    ready_fd = None

    def __init__(self, server: Embedded) -> None:
        self._server = server
        self.pid = server.pid

    def is_ready(self) -> bool:
        """See Process."""
        return True

    def pulse_s(self) -> float | None:
        """See Process; the servers' probes look whether it answers."""
        return None

    def ended(self) -> int | None:
        """See Process."""
        return self._server.ended

    def terminate(self) -> None:
        """See Process; waits until it has finished its file."""
        self._server.stop()

    def kill(self) -> None:
        """See Process."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """See Process."""
        self._server.stop()
