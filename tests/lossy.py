"""A line to a server that loses replies on purpose: the request arrives and is executed, its answer does not."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path
from types import TracebackType


class Lossy:
    """Listens on a unix socket and passes everything on to another one.

    While ``lose`` is set, the answer to the next request that contains it is swallowed (once), and ``cut`` says
    whether the line is then closed or stays silent. ``requests`` counts those that contained it.
    """

    def __init__(self, place: Path, server: str) -> None:
        self.url = f"unix://{place}"
        self.lose = b""
        self.cut = True
        self.requests = 0
        self._server = server.removeprefix("unix://")
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(place))
        self._listening.listen(64)
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Lossy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in (self._listening, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(self._server)
            self._open += [near, far]
            lost = threading.Event()
            threading.Thread(target=self._forward, args=(near, far, lost), daemon=True).start()
            threading.Thread(target=self._back, args=(near, far, lost), daemon=True).start()

    def _forward(self, near: socket.socket, far: socket.socket, lost: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while chunk := near.recv(1 << 20):
                if self.lose and self.lose in chunk:
                    self.requests += 1
                    if self.requests == 1:
                        lost.set()
                far.sendall(chunk)
        with contextlib.suppress(OSError):
            far.shutdown(socket.SHUT_RDWR)

    def _back(self, near: socket.socket, far: socket.socket, lost: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while chunk := far.recv(1 << 20):
                if not lost.is_set():
                    near.sendall(chunk)
                elif self.cut:
                    break
        with contextlib.suppress(OSError):
            near.shutdown(socket.SHUT_RDWR)
