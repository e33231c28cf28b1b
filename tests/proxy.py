"""A TCP line that a test can cut, hold silent, or lead to another server."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from types import TracebackType


class Proxy:
    """Listens on a free port of this machine and passes bytes on to ``port``.

    ``silent``: bytes are swallowed in both directions, and connections stay open (a black hole). Set ``port`` and
    ``cut`` to lead new connections elsewhere and end the present ones. ``lose``: chance of an answer to be swallowed
    and its connection closed; ``lost`` counts them. The same ones are lost in each run of a caller of one thread.
    """

    def __init__(self, port: int, seed: int = 1) -> None:
        self.port = port
        self.silent = False
        self.lose = 0.0
        self.lost = 0
        self._chance = random.Random(seed)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def place(self) -> int:
        """The port to connect to."""
        port: int = self._listening.getsockname()[1]
        return port

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()
        self._thread.join(5)

    def cut(self) -> None:
        """End all connections."""
        with self._lock:
            ended, self._open = self._open, set()
        for each in ended:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.port), timeout=5)
                far.settimeout(None)
            except OSError:
                near.close()
                continue
            with self._lock:
                self._open |= {near, far}
            for source, target, answers in ((near, far, False), (far, near, True)):
                threading.Thread(target=self._pass, args=(source, target, answers), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(1 << 16):
                if answers and self.lose and self._chance.random() < self.lose:
                    self.lost += 1
                    break
                if not self.silent:
                    target.sendall(chunk)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._open.discard(source)
        source.close()
