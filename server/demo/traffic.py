"""The world's two sides at work: a gateway that asks for decisions, and a pipeline that brings their rewards later.

Both speak the public API only, as a user's programs would, and repeat each call until it is answered.
"""

from __future__ import annotations

import heapq
import itertools
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from bandit.client import Client, ServerUnavailable
from bandit.client.connection import split_tokens
from bandit.errors import Overloaded, StoreUnavailable
from bandit.rng import hash_unit
from bandit.simulate import Outcome, World
from bandit.v1 import reward_service_pb2
from server.demo.tally import Tally

TICK_S = 0.05
RETRY_S = 0.2
# One reward in thirty is sent a second time, as pipelines do.
REPEATED = 1 / 30
REPEATED_AFTER_S = 0.3
BATCH = 500
RATE = 300.0
ONE_BY_ONE = 0.2
PASSING = (ServerUnavailable, StoreUnavailable, Overloaded)
_REPEAT_SALT = b"repeated rewards"


@dataclass(frozen=True, slots=True)
class Parcel:
    """A reward on its way. ``repeat``: the second sending of an accepted one. ``tried``: a call with it failed."""

    arm: str
    token: bytes
    outcome: Outcome
    repeat: bool = False
    tried: bool = False

    @property
    def event(self) -> reward_service_pb2.RewardEvent:
        """What is sent."""
        return reward_service_pb2.RewardEvent(
            token=self.token, metric=self.outcome.metric, value=self.outcome.value
        )


class Due(NamedTuple):
    """A parcel and when to send it (monotonic, s); ``turn`` breaks ties."""

    at_s: float
    turn: int
    parcel: Parcel


class Side(threading.Thread):
    """One side of the world on a thread of its own; what breaks it is kept in ``fault``."""

    def __init__(self, name: str, broken: threading.Event) -> None:
        super().__init__(name=name, daemon=True)
        self.fault: Exception | None = None
        self.ending = threading.Event()
        self._broken = broken

    def run(self) -> None:
        """Work until told to end."""
        try:
            self.work()
        except Exception as error:  # noqa: BLE001 - handed to the main thread, which says it
            self.fault = error
            self._broken.set()

    def work(self) -> None:
        """What this side does."""
        raise NotImplementedError


class Gateway(Side):
    """Asks for ``rate`` decisions a second, a fifth of them one by one, the others in small batches."""

    def __init__(
        self,
        client: Client,
        experiment: str,
        world: World,
        tally: Tally,
        broken: threading.Event,
        *,
        rate: float = RATE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__("gateway", broken)
        self.parcels: queue.SimpleQueue[Due] = queue.SimpleQueue()
        self.began_s = clock()
        self._client = client
        self._experiment = experiment
        self._world = world
        self._tally = tally
        self._clock = clock
        self._sessions = itertools.count(1)
        self._turns = itertools.count()
        self._singles = round(rate * TICK_S * ONE_BY_ONE)
        self._batch = round(rate * TICK_S) - self._singles

    def work(self) -> None:
        """Tick after tick; a late tick is not made up for."""
        while not self.ending.is_set():
            started = self._clock()
            for _ in range(self._singles):
                self._decide([self._session()])
            self._decide([self._session() for _ in range(self._batch)])
            self.ending.wait(max(started + TICK_S - self._clock(), 0.0))

    def _session(self) -> str:
        return f"session-{next(self._sessions)}"

    def _decide(self, units: list[str]) -> None:
        while not self.ending.is_set():
            try:
                answers = self._asked(units)
                break
            except PASSING as error:
                with self._tally.lock:
                    self._tally.failed_calls += 1
                    # The service itself refuses before it counts; a call without its answer may have counted.
                    self._tally.unsure_decisions += len(units) if isinstance(error, ServerUnavailable) else 0
                self.ending.wait(RETRY_S)
        else:
            return
        now_s = self._clock()
        for unit, (arm, token) in zip(units, answers, strict=True):
            self._tally.decided(arm, counted=bool(token))
            if token:
                self._expect(unit, arm, token, now_s)

    def _asked(self, units: list[str]) -> list[tuple[str, bytes]]:
        """(arm, token) of each unit."""
        if len(units) == 1:
            one = self._client.decide(self._experiment, units[0])
            return [(one.arm, one.token)]
        reply = self._client.decide_batch(self._experiment, units)
        return [
            (reply.arms[index], token)
            for index, token in zip(reply.arm_indexes, split_tokens(reply), strict=True)
        ]

    def _expect(self, unit: str, arm: str, token: bytes, now_s: float) -> None:
        for outcome in self._world.outcomes(arm, unit, now_s - self.began_s):
            self.parcels.put(Due(now_s + outcome.delay_s, next(self._turns), Parcel(arm, token, outcome)))


class Pipeline(Side):
    """Sends rewards as they fall due, in batches; one in thirty twice."""

    def __init__(
        self,
        client: Client,
        parcels: queue.SimpleQueue[Due],
        tally: Tally,
        broken: threading.Event,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__("pipeline", broken)
        self.cut = threading.Event()
        self._client = client
        self._parcels = parcels
        self._tally = tally
        self._clock = clock
        self._due: list[Due] = []

    def work(self) -> None:
        """Until told to end and nothing is on its way any more, or until cut."""
        while not self.cut.is_set():
            while not self._parcels.empty():
                heapq.heappush(self._due, self._parcels.get())
            if self.ending.is_set() and not self._due:
                return
            batch: list[Due] = []
            now_s = self._clock()
            while self._due and self._due[0].at_s <= now_s and len(batch) < BATCH:
                batch.append(heapq.heappop(self._due))
            if batch:
                self._send(batch)
            if len(batch) < BATCH:
                self.cut.wait(TICK_S)

    def _send(self, batch: list[Due]) -> None:
        try:
            results = self._client.report_rewards(due.parcel.event for due in batch)
        except PASSING:
            with self._tally.lock:
                self._tally.failed_calls += 1
            for due in batch:
                heapq.heappush(self._due, due._replace(parcel=replace(due.parcel, tried=True)))
            self.cut.wait(RETRY_S)
            return
        with self._tally.lock:
            for due, result in zip(batch, results, strict=True):
                self._answered(due, result)

    def _answered(self, due: Due, result: reward_service_pb2.RewardResult) -> None:
        parcel, tally = due.parcel, self._tally
        if parcel.repeat:
            tally.repeats += 1
            return
        cell = (parcel.arm, parcel.outcome.metric)
        if result.outcome == reward_service_pb2.REWARD_OUTCOME_ACCEPTED:
            tally.rewards[cell] += 1
            if hash_unit(_REPEAT_SALT, f"{due.turn}") < REPEATED * 2**64:
                again = due._replace(
                    at_s=self._clock() + REPEATED_AFTER_S, parcel=replace(parcel, repeat=True)
                )
                heapq.heappush(self._due, again)
            return
        if result.outcome == reward_service_pb2.REWARD_OUTCOME_LATE:
            tally.late += 1
        else:
            tally.rejected += 1
        if parcel.tried:
            tally.unsure_rewards[cell] += 1
