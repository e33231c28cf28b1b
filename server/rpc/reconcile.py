"""Makes a rollback in the store of each arm that was stopped at this machine, once, and then ends the stop.

In the order of the commands: a stop ends without a rollback when the arm was cleared after it was stopped (the time of
the clearance in the audit decides), when another build or another experiment of the name is there, or when the arm
became the control. It stays as long as the store does not have what it asks for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from bandit.errors import BanditError, NotAllowed, NotFound, StoreUnavailable
from bandit.rollout.state import Allocation, Experiment
from bandit.rollout.transitions import Transition, roll_back
from server.clock import Clock
from server.pauses import Pauses
from server.rpc.changes import Asked, Changes
from server.stops import Stop, StopFile
from server.store.base import ControlStore, Stored

log = structlog.get_logger(__name__)

EVERY_S = 0.5
REST_S = 10.0
"""How long a stop outlives its rollback: until then every server of this machine has read that, and kept it."""
_PAGE = 100


class Reconciler:
    """One thread for each process; the file's lock lets one at a time work.

    ``matters``: would the arm have traffic at this server if it were not stopped?
    """

    def __init__(
        self,
        store: ControlStore,
        stops: StopFile,
        clock: Clock,
        matters: Callable[[Stop], bool],
        *,
        rest_s: float = REST_S,
    ) -> None:
        self._matters = matters
        self._store = store
        self._stops = stops
        self._clock = clock
        self._rest_s = rest_s
        self._since_s: dict[str, float] = {}
        self._changes = Changes(store, clock)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)

    def start(self) -> None:
        """Look for stops from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(5.0)

    def step(self) -> int:
        """Settle every stop that can be. Returns how many. Raises StoreUnavailable."""
        if not self._stops.ordered.stops:
            return 0
        with self._stops.only_one() as mine:
            if not mine:
                return 0
            self._stops.refresh()
            settled = [stop.id for stop in self._stops.ordered.stops if self._settle(stop)]
            if settled:
                self._stops.drop(settled)
            return len(settled)

    def _run(self) -> None:
        pauses = Pauses(cap_s=5.0)
        pause_s = EVERY_S
        while not self._stop.wait(pause_s):
            try:
                self.step()
                pauses.reset()
                pause_s = EVERY_S
            except StoreUnavailable:
                pause_s = EVERY_S + pauses.next()
            except Exception:  # a stop must be settled some day, whatever fails today
                log.exception("stop_not_settled")
                pause_s = EVERY_S + pauses.next()

    def _settle(self, stop: Stop) -> bool:
        """True when the store has what the stop asks for, or something newer forbids it."""
        stored = self._store.load(stop.experiment)
        if stored is None or stored.experiment.uid != stop.uid:
            return self._gone(stop, "its experiment is gone")
        experiment = stored.experiment
        index = experiment.spec.arm_index(stop.arm)
        if index is None or experiment.spec.arms[index].digest != stop.digest:
            return self._gone(stop, "its build is gone")
        if index == experiment.spec.control_index:
            return self._gone(stop, "the arm is the control now")
        if experiment.arms[index].rollback is not None:
            now_s = self._clock.monotonic_s()
            rested_s = now_s - self._since_s.setdefault(stop.id, now_s)
            return rested_s >= self._rest_s and self._over(stop, "the store has it rolled back")
        if self._cleared_since(stop, stored, index):
            return self._over(stop, "the arm was cleared after it was stopped here")

        def move(experiment: Experiment, allocation: Allocation, now_ms: int) -> Transition | None:
            at = experiment.spec.arm_index(stop.arm)
            if experiment.uid != stop.uid or at is None or experiment.spec.arms[at].digest != stop.digest:
                return None
            return roll_back(
                experiment,
                allocation,
                at,
                actor=stop.actor,
                reason=stop.reason,
                rollback_id=f"stop-{stop.id}",
                now_ms=now_ms,
            )

        wanted = Asked(request_id=f"stop-{stop.id}", actor=stop.actor.removeprefix("client/"))
        try:
            self._changes.apply(stop.experiment, wanted, move)
        except (NotFound, NotAllowed) as error:
            log.info("stop_waits", experiment=stop.experiment, arm=stop.arm, reason=str(error))
            return False  # looked at again from the beginning
        except StoreUnavailable:
            raise
        except BanditError as error:
            log.warning("stop_waits", experiment=stop.experiment, arm=stop.arm, reason=str(error))
            return False
        self._since_s.setdefault(stop.id, self._clock.monotonic_s())
        log.warning("stop_became_rollback", experiment=stop.experiment, arm=stop.arm, actor=stop.actor)
        return False

    def _cleared_since(self, stop: Stop, stored: Stored, index: int) -> bool:
        """Did somebody clear this arm after the stop? Its clearance has the allocation that it is judged from."""
        state = stored.experiment.arms[index]
        if state.attempt <= stop.attempt:
            return False
        before: int | None = None
        while records := self._store.audit(stop.experiment, before, _PAGE):
            for record in records:
                if record.action == "rollback_cleared" and record.allocation == state.since:
                    return record.time_ms > stop.time_ms
                if record.time_ms <= stop.time_ms:
                    return False
            before = records[-1].sequence
        return False

    def _gone(self, stop: Stop, why: str) -> bool:
        """Over, unless this server still serves it: a store that was emptied or exchanged ends no stop."""
        return not self._matters(stop) and self._over(stop, why)

    def _over(self, stop: Stop, why: str) -> bool:
        self._since_s.pop(stop.id, None)
        log.info("stop_settled", experiment=stop.experiment, arm=stop.arm, actor=stop.actor, reason=why)
        return True
