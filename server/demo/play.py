"""The demo from beginning to end: create, wait for the learner, let the world live, compare the counts, say what came.

It speaks to the service through its public API alone and leaves its processes to the supervisor.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from bandit.client import Client
from bandit.errors import AlreadyExists, BanditError, NotAllowed, NotFound
from bandit.spec.model import ExperimentSpec
from bandit.v1 import experiment_pb2 as pb
from server.demo.happenings import Event, Happenings
from server.demo.screen import Moment
from server.demo.tally import Tally
from server.demo.traffic import PASSING, RATE, Gateway, Pipeline
from server.demo.variants import CULPRIT, WINNER, demo_spec, demo_world

DEFAULT_TARGET = "127.0.0.1:50061"
SECONDS = 30.0
# Less would leave no time between the variant's fall and the end to see what follows from it.
LEAST_SECONDS = 12.0
# Of the whole budget: what comes after the world's last decision (late rewards, folding, stopping).
CLOSING_S = 8.0
MISBEHAVES_AT = 1 / 3
# Without an end there is no third of the run.
MISBEHAVES_S = 12.0
REFRESH_S = 0.25
READY_S = 120.0
DRAIN_S = 4.0
FOLDED_S = 15.0
RATES_S = 3.0
NAMES = 50
EVENTS = 40


class Screen(Protocol):
    """Where the demo is shown."""

    def show(self, moment: Moment) -> None:
        """The newest moment; called about four times a second."""

    def tell(self, event: Event) -> None:
        """An event, once."""


class End(NamedTuple):
    """What the last line says."""

    winner: str
    share_ppm: int
    rolled_back: str
    decisions: int
    rewards: int
    lost: int

    def line(self) -> str:
        """The last line."""
        return (
            f"demo: winner={self.winner} share_ppm={self.share_ppm} rolled_back={self.rolled_back} "
            f"decisions={self.decisions} rewards={self.rewards} lost={self.lost}"
        )

    def objection(self) -> str:
        """A sentence when the facts are not what the demo is to show, else an empty one."""
        if self.lost:
            return f"the ledger differs from the world's own counts by {self.lost}; they must be equal"
        if not self.decisions or not self.rewards:
            return f"{self.decisions} decisions and {self.rewards} rewards were counted; there must be some of both"
        if self.rolled_back != CULPRIT:
            return f"rolled back: {self.rolled_back}; it must be {CULPRIT}, whose answers became unsafe"
        if self.winner != WINNER:
            return f"{self.winner} has the greatest share; it must be {WINNER}, which is truly the best"
        return ""


class Ended(Exception):
    """The demo cannot go on; the text says why."""


@dataclass(slots=True)
class _Sight:
    """The newest status, and when it came."""

    status: pb.ExperimentStatus | None = None
    trouble: str = ""


class Play:
    """One demo. ``seconds``: how long the world lives, None for until ``stop``. ``budget_s``: how long everything may
    take; the world then lives shorter when the learner was late."""

    def __init__(
        self,
        target: str,
        screen: Screen,
        stop: threading.Event,
        *,
        seconds: float | None,
        budget_s: float | None = None,
        rate: float = RATE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.target = target
        self.tally = Tally()
        self._screen = screen
        self._stop = stop
        self._seconds = seconds
        self._rate = rate
        self._clock = clock
        self._began_s = clock()
        self._budget_s = budget_s
        self._spec = demo_spec()
        self._sight = _Sight()
        self._happenings = Happenings()
        self._events: deque[Event] = deque(maxlen=EVENTS)
        self._moment = Moment(self._spec.experiment)
        self._trouble = ""
        self._rates: deque[tuple[float, int, int]] = deque()

    @property
    def experiment(self) -> str:
        """Name of the demo's experiment."""
        return self._spec.experiment

    @property
    def command(self) -> str:
        """How banditctl reaches this server."""
        return "banditctl" if self.target == DEFAULT_TARGET else f"banditctl --server {self.target}"

    def run(self) -> End:
        """Play it. Raises Ended, or the BanditError that ended it."""
        with Client(self.target, timeout_s=5.0, actor="demo") as client, Client(self.target) as watching:
            self._spec = self._created(client)
            self._moment.experiment = self._spec.experiment
            self._moment.commands = f"{self.command} status|watch|audit {self._spec.experiment}"
            watcher = threading.Thread(target=self._watch, args=(watching,), name="watch", daemon=True)
            watcher.start()
            self._await_learner()
            self._start(client)
            self._await_first_decision(client)
            self._live(client)
            return self._compared(client)

    def _created(self, client: Client) -> ExperimentSpec:
        """Create the experiment under a name that is free, as soon as a server answers."""
        spec, number = self._spec, 1
        while True:
            try:
                client.create(spec)
                return spec
            except AlreadyExists:
                number += 1
                if number > NAMES:
                    raise
                spec = self._spec.model_copy(update={"experiment": f"{self._spec.experiment}-{number}"})
            except PASSING as error:
                self._wait(f"starting the server: {self._waited_s():.0f} s", str(error))

    def _await_learner(self) -> None:
        while self._sight.status is None or not self._sight.status.HasField("evaluation_time"):
            self._wait(
                f"compiling kernels: {self._waited_s():.0f} s",
                self._sight.trouble or "the learner is not ready",
            )

    def _start(self, client: Client) -> None:
        unsure = False
        while True:
            try:
                client.start(self._spec.experiment)
                return
            except NotAllowed:
                if unsure:  # a start whose answer was lost has worked
                    return
                raise
            except PASSING as error:
                unsure = True
                self._wait("starting the experiment", str(error))

    def _await_first_decision(self, client: Client) -> None:
        """Servers learn of a new experiment within a second."""
        while True:
            try:
                first = client.decide(self._spec.experiment, "session-0")
            except (NotFound, *PASSING) as error:
                self._wait("the first decision", str(error))
                continue
            self.tally.decided(first.arm, counted=first.counted)
            return

    def _wait(self, note: str, trouble: str) -> None:
        """A little; raises Ended when it took too long, or the user ended it."""
        if self._waited_s() > READY_S:
            raise Ended(f"not ready after {READY_S:.0f} s: {trouble}; the log of banditd says more")
        self._moment.note = note
        self._screen.show(self._moment)
        if self._stop.wait(REFRESH_S):
            raise Ended("ended before the experiment had begun")

    def _waited_s(self) -> float:
        return self._clock() - self._began_s

    def _watch(self, client: Client) -> None:
        while True:
            try:
                for status in client.watch(self._spec.experiment):
                    self._sight = _Sight(status)
            except (BanditError, ValueError) as error:  # ValueError: the channel was closed, we are done
                self._sight = replace(self._sight, trouble=str(error))
                if isinstance(error, ValueError) or self._stop.wait(REFRESH_S):
                    return

    def _live(self, client: Client) -> None:
        """Let the world live until its time is over or somebody stops it."""
        seconds = self._seconds
        if seconds is not None and self._budget_s is not None:
            left_s = self._budget_s - self._waited_s() - CLOSING_S
            seconds = min(seconds, max(left_s, LEAST_SECONDS))
        misbehaves_s = MISBEHAVES_S if seconds is None else seconds * MISBEHAVES_AT
        world = demo_world(self._spec, misbehaves_s)
        broken = threading.Event()
        gateway = Gateway(client, self._spec.experiment, world, self.tally, broken, rate=self._rate)
        pipeline = Pipeline(client, gateway.parcels, self.tally, broken)
        self._moment.note, self._moment.until_s = "", seconds
        gateway.start()
        pipeline.start()
        fallen = False
        while not self._stop.is_set() and not broken.is_set():
            at_s = self._clock() - gateway.began_s
            if seconds is not None and at_s >= seconds:
                break
            if not fallen and at_s >= misbehaves_s:
                fallen = True
                self._tell(Event(at_s, "world", f"{CULPRIT} begins to give unsafe answers, one in twelve"))
            self._look(client, at_s)
            self._stop.wait(REFRESH_S)
        gateway.ending.set()
        gateway.join(DRAIN_S)
        pipeline.ending.set()
        pipeline.join(0 if self._stop.is_set() else DRAIN_S)
        pipeline.cut.set()
        pipeline.join(DRAIN_S)
        for side in (gateway, pipeline):
            if side.fault is not None:
                raise Ended(f"the {side.name} broke: {side.fault}") from side.fault

    def _look(self, client: Client, at_s: float) -> None:
        """Show the newest status and tell what happened."""
        status, trouble = self._sight.status, self._sight.trouble
        if trouble and trouble != self._trouble:
            self._tell(Event(at_s, "warning", trouble))
        self._trouble = trouble
        if status is not None:
            stopped = len(self._happenings.rolled_back)
            for event in self._happenings.see(status, at_s):
                self._tell(event)
            if len(self._happenings.rolled_back) > stopped:
                self._fetch_verdict(client)
        decisions, rewards = self.tally.totals()
        self._rates.append((at_s, decisions, rewards))
        while at_s - self._rates[0][0] > RATES_S:
            self._rates.popleft()
        first_s, decisions_then, rewards_then = self._rates[0]
        span_s = max(at_s - first_s, REFRESH_S)
        moment = self._moment
        moment.status, moment.at_s = status, at_s
        moment.decisions, moment.rewards = decisions, rewards
        moment.decisions_per_s = (decisions - decisions_then) / span_s
        moment.rewards_per_s = (rewards - rewards_then) / span_s
        moment.verdicts, moment.events = dict(self._happenings.verdicts), tuple(self._events)
        self._screen.show(moment)

    def _fetch_verdict(self, client: Client) -> None:
        """The service judges live arms only, so the verdict that stopped one is kept in the audit alone."""
        try:
            for record in client.audit(self._spec.experiment, page_size=10):
                if record.HasField("verdict"):
                    self._happenings.fail(record.verdict)
                    return
        except PASSING as error:
            self._tell(Event(self._moment.at_s, "warning", f"the audit was not read: {error}"))

    def _tell(self, event: Event) -> None:
        self._events.append(event)
        self._screen.tell(event)

    def _compared(self, client: Client) -> End:
        """Wait until the log is folded, then compare every count."""
        deadline_s = self._clock() + FOLDED_S
        while True:
            trouble, status = "", None
            try:
                status = client.status(self._spec.experiment)
            except PASSING as error:
                trouble = str(error)
            if status is not None and (not self.tally.lost(status) or self._clock() > deadline_s):
                break
            if self._clock() > deadline_s:
                raise Ended(f"the counts could not be compared within {FOLDED_S:.0f} s: {trouble}")
            time.sleep(REFRESH_S)
        best = max(status.arms, key=lambda arm: arm.share_ppm)
        stopped = [arm.arm for arm in status.arms if arm.state.HasField("rollback")]
        return End(
            best.arm,
            best.share_ppm,
            ",".join(stopped) or "none",
            *self.tally.totals(),
            self.tally.lost(status),
        )
