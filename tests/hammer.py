"""Something that goes on happening while a test works."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import redis


class Hammer:
    """Does something again and again in a thread while the test goes on."""

    def __init__(self, blow: Callable[[], object], pause_s: float) -> None:
        self._blow, self._pause_s = blow, pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.blows = 0

    def __enter__(self) -> Hammer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._pause_s):
            with contextlib.suppress(redis.exceptions.RedisError):
                self._blow()
                self.blows += 1
