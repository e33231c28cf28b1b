"""The learner's loop: leases -> log -> fold -> look -> commit -> status, for every experiment whose lease it holds.

One thread, one experiment after the other; a fault of one experiment drops its writer and leaves the others alone.
What is not known to be in the store is thrown away and read again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import structlog

from bandit.errors import BanditError, CorruptStored, NotAllowed, Stale, StoreUnavailable
from bandit.ids import parse_ledger
from bandit.log import START, LogEntry
from bandit.look import Look, look
from bandit.rollout.transitions import audit_record
from server.clock import Clock
from server.control.fitness import Fitness
from server.control.lease import Leases
from server.control.pasts import Pasts
from server.control.report import Units, report_message
from server.control.status import partition_messages, status_of
from server.control.turns import Turns
from server.evidence import Evidence
from server.keeping import keeps
from server.partitioned import open_writer
from server.pauses import Pauses
from server.store.base import Commit, Fence, Store, Stored

log = structlog.get_logger(__name__)


class Telemetry(Protocol):
    """What the loop counts; see ``server.telemetry`` for the names."""

    def folded(self, entries: int, rewards: int, exposures: int, seconds: float) -> None:
        """One fold was written."""

    def committed(self, action: str) -> None:
        """One transition was committed."""

    def evaluated(self, experiment: str, behind: int, outcomes: dict[str, int]) -> None:
        """One look was taken."""

    def forgotten(self, experiment: str) -> None:
        """It is no longer this learner's: its gauges go."""

    def leases(self, held: int) -> None:
        """So many leases are held."""

    def set_back(self, action: str) -> None:
        """The store lacked commits, folds or unread entries of an experiment; what was done of it."""


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """How the loop paces itself; seconds and counts."""

    owner: str
    lease_ttl_s: float = 5.0
    tick_s: float = 0.25
    housekeeping_s: float = 1.0
    report_s: float = 5.0
    read_count: int = 500
    block_s: float = 0.02
    retry_s: float = 1.0
    parked_s: float = 5.0
    check_s: float = 30.0


class LearnerLoop:
    """Runs until told to stop. ``step`` is one turn and may be driven by tests with their own clock.

    ``accepted``: when an operator last accepted the store as it is, Unix ms; ``kept``: see ``server.control.pasts``.
    ``follow`` lets the clock hear the store's time; it is called each ``housekeeping_s``.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        settings: LoopSettings,
        telemetry: Telemetry,
        accepted: Callable[[], int] = lambda: 0,
        kept: Iterable[Stored] = (),
        follow: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._follow = follow
        self._clock = clock
        self._settings = settings
        self._telemetry = telemetry
        self._leases = Leases(store, clock, settings.owner, int(settings.lease_ttl_s * 1000))
        self._writers: dict[str, Evidence] = {}
        self._parked: dict[str, tuple[float, str]] = {}
        self._ticked: dict[str, float] = {}
        self._reported: dict[str, float] = {}
        self._version = -1
        self._turns = Turns(store, settings.read_count)
        self._fitness = Fitness(store, clock, settings.check_s)
        self._pasts = Pasts(store, clock, telemetry.set_back, accepted, kept)
        self._kept_s = float("-inf")

    @property
    def writers(self) -> dict[str, Evidence]:
        """Writers by experiment, for those who look on."""
        return self._writers

    def run(self, stop: threading.Event, beat: Callable[[], None] = lambda: None) -> None:
        """Turn until ``stop``; then give the leases up. ``beat`` is called before each turn."""
        lost_s: float | None = None
        pauses = Pauses(cap_s=self._settings.retry_s)
        while not stop.is_set():
            beat()
            try:
                self.step()
                pauses.reset()
                if lost_s is not None:
                    log.info("store_back", away_s=round(self._clock.monotonic_s() - lost_s, 1))
                    lost_s = None
            except StoreUnavailable as error:
                if lost_s is None:
                    lost_s = self._clock.monotonic_s()
                    log.warning("store_lost", reason=str(error))
                self._writers.clear()
                self._version = -1
                stop.wait(pauses.next())
        self._leases.release_all()

    def step(self) -> None:
        """One turn. Raises StoreUnavailable; the writers are then to be thrown away."""
        if self._clock.monotonic_s() - self._kept_s >= self._settings.housekeeping_s:
            self._keep_house()
        self._take_commits()
        offsets = {
            ledger: offset for writer in self._writers.values() for ledger, offset in writer.reads.items()
        }
        portions: Mapping[str, Sequence[LogEntry]] = {}
        if offsets:
            portions = self._turns.next(offsets, int(self._settings.block_s * 1000))
        else:
            self._clock.sleep(self._settings.block_s)
        for ledger, entries in portions.items():
            name, _ = parse_ledger(ledger)
            self._guarded(name, partial(self._fold, name, ledger, entries))
        full: dict[str, set[str]] = {}
        for ledger in self._turns.more:
            full.setdefault(parse_ledger(ledger)[0], set()).add(ledger)
        now = self._clock.monotonic_s()
        for name in list(self._writers):
            if now - self._ticked.get(name, float("-inf")) >= self._settings.tick_s:
                self._ticked[name] = now
                self._guarded(name, partial(self._tick, name, full.get(name, set())))
        for name, writer in list(self._writers.items()):
            self._guarded(name, writer.tend)

    def _keep_house(self) -> None:
        self._kept_s = self._clock.monotonic_s()
        self._follow()
        self._fitness.look()
        self._store.beat(self._settings.owner, int(self._settings.lease_ttl_s * 1000))
        now = self._clock.monotonic_s()
        self._parked = {name: each for name, each in self._parked.items() if each[0] > now}
        orders = self._store.orders()
        names = [name for name in sorted(orders) if name not in self._parked]
        gained, lost = self._leases.renew(names)
        for name in lost:
            self._writers.pop(name, None)
            self._telemetry.forgotten(name)
            log.info("lease_lost", experiment=name)
        for name in gained:
            self._writers.pop(name, None)
            log.info("lease_gained", experiment=name)
        for name in self._leases.held():
            if self._pasts.lost_by(name, orders.get(name)):
                self._writers.pop(name, None)
                self._guarded(name, partial(self._put_back, name))
            if name not in self._writers and name not in self._parked:
                self._guarded(name, partial(self._open, name))
        self._telemetry.leases(len(self._leases.held()))

    def _open(self, name: str) -> None:
        stored = self._store.load(name)
        if stored is None:
            self._leases.drop(name)
            return
        writer = open_writer(self._store, stored)
        self._pasts.opened(name, stored, writer.sequences)
        writer.flush()
        self._writers[name] = writer
        log.info(
            "experiment_opened",
            experiment=name,
            generation=stored.generation,
            offset=" ".join(writer.offsets.values()),
        )

    def _put_back(self, name: str) -> None:
        """The store lost commits: make them once more, or leave the experiment alone."""
        stored, fence = self._store.load(name), self._leases.fence(name)
        if stored is not None and fence is not None:
            self._pasts.put_back(name, stored, fence)
            self._version = -1

    def _take_commits(self) -> None:
        """Take up what others committed since the last turn."""
        version = self._store.version()
        if version == self._version:
            return
        orders = self._store.orders() if self._writers else {}
        changed = [
            name for name, writer in self._writers.items() if orders.get(name) != _order(writer.stored)
        ]
        for name, stored in self._store.load_many(sorted(changed)).items():
            if isinstance(stored, Exception):
                self._park(name, f"what is stored cannot be read: {stored}")
            else:
                self._guarded(name, partial(self._sync, name, stored))
        self._version = version

    def _sync(self, name: str, stored: Stored) -> None:
        writer = self._writers[name]
        if stored.experiment.uid != writer.stored.experiment.uid:
            del self._writers[name]  # deleted and created anew: its ledger is another one
        elif stored.generation > writer.stored.generation:
            if keeps(stored) != keeps(writer.stored):
                self._writers.pop(name)  # another kind of writer takes it up
                self._guarded(name, partial(self._open, name))
                return
            writer.sync(stored)
            self._pasts.saw(name, stored)
        elif stored.generation < writer.stored.generation:
            self._kept_s = float("-inf")  # the store lost commits: look after that first

    def _fold(self, name: str, ledger: str, entries: Sequence[LogEntry]) -> None:
        writer = self._writers.get(name)
        if writer is None:
            return  # another of its ledgers was written by somebody else just now
        if not writer.knows(entries):
            stored = self._store.load(name)
            if stored is None or stored.experiment.uid != writer.stored.experiment.uid:
                del self._writers[name]
                return
            writer.sync(stored)
            self._pasts.saw(name, stored)
        self._pasts.reading_on(name, ledger, writer.offsets.get(ledger, START))
        began = self._clock.monotonic_s()
        folding = writer.take(ledger, entries)
        self._pasts.folded(name, writer.sequences)
        self._telemetry.folded(
            len(entries), int(folding.outcomes.sum()), folding.exposures, self._clock.monotonic_s() - began
        )

    def _tick(self, name: str, full: set[str]) -> None:
        """Look, commit what follows, publish. Judged only up to the time that every log has been folded to.

        ``full``: logs that may have more than was folded in this turn.
        """
        writer = self._writers[name]
        fence = self._leases.fence(name)
        if fence is None:
            return
        behind = {ledger: self._store.behind(ledger, writer.offsets[ledger]) for ledger in sorted(full)}
        now_ms = self._clock.now_ms()
        for ledger, entries in behind.items():
            if entries:
                now_ms = min(now_ms, int(writer.offsets[ledger].partition("-")[0]))
        stored = writer.stored
        table, rows = writer.tables()
        seen = look(
            stored.experiment,
            stored.allocation,
            table,
            rows,
            writer.folded(),
            now_ms,
            writer.clusters(),
            totals=writer.totals(now_ms),
        )
        if seen.transition is not None and not writer.stands:
            self._commit(writer, seen)
        writer.flush()
        writer.compact(now_ms)
        status = status_of(
            writer.stored,
            seen,
            writer.ledger_read,
            writer.counts,
            writer.exposures_lost,
            sum(behind.values()),
            [*self._pasts.warnings(name), *writer.warnings()],
            writer.events,
        )
        status.partitions.extend(partition_messages(writer.told(), behind))
        if not self._store.put_status(name, status.SerializeToString(), fence):
            raise Stale(f"{name}: the lease is lost", reason="LEASE_LOST")
        self._report(writer, seen, fence)
        outcomes: dict[str, int] = {}
        for verdict in seen.verdicts:
            outcomes[verdict.outcome] = outcomes.get(verdict.outcome, 0) + 1
        self._telemetry.evaluated(name, sum(behind.values()), outcomes)

    def _report(self, writer: Evidence, seen: Look, fence: Fence) -> None:
        """Publish what the data show, at a slower pace than the status."""
        now, name = self._clock.monotonic_s(), writer.name
        if now - self._reported.get(name, float("-inf")) < self._settings.report_s:
            return
        self._reported[name] = now
        clusters = writer.clusters()
        units = None
        if clusters is not None and writer.stored.experiment.spec.unit.mode == "sticky":
            units = Units(writer.settled(seen.now_ms), clusters)
        report = report_message(writer.stored, seen, units)
        if not self._store.put_report(name, report.SerializeToString(), fence):
            raise Stale(f"{name}: the lease is lost", reason="LEASE_LOST")

    def _commit(self, writer: Evidence, seen: Look) -> None:
        """Commit a look's transition, with an audit record unless it only moved shares by evidence."""
        transition, stored, name = seen.transition, writer.stored, writer.name
        if transition is None:
            return
        audit = None
        if transition.experiment is not stored.experiment:
            audit = audit_record(
                (stored.experiment, stored.allocation),
                transition,
                actor=seen.actor,
                sequence=stored.audit_sequence,
                previous_hash=stored.audit_hash,
                now_ms=self._clock.now_ms(),
                verdict=seen.verdict,
            )
        commit = Commit(
            expected_generation=stored.generation,
            experiment=transition.experiment,
            allocation=transition.allocation,
            audit=audit,
            fence=self._leases.fence(name),
        )
        try:
            generation = self._store.commit(commit)
        except Stale as error:
            log.info("commit_refused", experiment=name, action=transition.action, reason=str(error))
            self._version = -1
            return
        writer.sync(
            Stored(
                transition.experiment,
                transition.allocation,
                generation,
                audit.sequence if audit else stored.audit_sequence,
                audit.hash if audit else stored.audit_hash,
            )
        )
        self._pasts.saw(name, writer.stored)
        self._telemetry.committed(transition.action)
        level = log.info if audit else log.debug
        level(
            "transition_committed",
            experiment=name,
            action=transition.action,
            actor=seen.actor,
            reason=transition.reason,
            before_ppm=stored.allocation.shares_ppm,
            after_ppm=transition.allocation.shares_ppm,
            allocation=transition.allocation.number,
        )

    def _guarded(self, name: str, act: Callable[[], object]) -> None:
        """Run a step of one experiment; its own faults must not reach the others."""
        try:
            act()
        except StoreUnavailable:
            raise
        except (CorruptStored, NotAllowed) as error:
            self._park(name, str(error))
        except Stale as error:
            log.warning("writer_fenced", experiment=name, reason=str(error))
            self._writers.pop(name, None)
            self._leases.drop(name)
        except (BanditError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            log.exception("experiment_failed", experiment=name)
            self._park(name, repr(error))

    def _park(self, name: str, reason: str) -> None:
        """Leave an experiment alone for a while: shares stand still, and its status says why by growing old."""
        log.error("experiment_parked", experiment=name, reason=reason)
        self._writers.pop(name, None)
        self._leases.drop(name)
        self._parked[name] = (self._clock.monotonic_s() + self._settings.parked_s, reason)


def _order(stored: Stored) -> tuple[int, int]:
    """uid and generation, as ``ControlStore.orders`` has them."""
    return stored.experiment.uid, stored.generation
