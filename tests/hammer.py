"""Things that happen at the same time: again and again while a test works, or all at once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import redis

T = TypeVar("T")


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


def at_once(count: int, call: Callable[[int], T]) -> list[T | Exception]:
    """Results of ``count`` calls that start together, each from a thread of its own."""
    gate = threading.Barrier(count)

    def one(index: int) -> T | Exception:
        gate.wait()
        try:
            return call(index)
        except Exception as error:  # noqa: BLE001 - whatever happened is what the test looks at
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))
