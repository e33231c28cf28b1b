"""Writes of operators: read, move, compare-and-set, again while only shares moved; each with its audit record.

Who asks is what the caller said, so the audit marks it as a client's word; it is never taken for a permission.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import NamedTuple

import structlog

from bandit.errors import AlreadyExists, CorruptStored, InvalidArgument, NotAllowed, NotFound, Stale
from bandit.ids import experiment_resource
from bandit.rollout.audit import GENESIS, AuditRecord
from bandit.rollout.state import Allocation, Experiment, State
from bandit.rollout.transitions import Transition, audit_record, create
from bandit.spec.model import ExperimentSpec
from server.clock import Clock
from server.rpc.securing import Securing
from server.store.base import Commit, ControlStore, Durability, Stored

log = structlog.get_logger(__name__)

MAX_ACTOR_BYTES = 128
MAX_REQUEST_ID_BYTES = 128
MAX_REASON_BYTES = 1000
SALT_BYTES = 16
ATTEMPTS = 20
PAUSE_S = 0.02
CLIENT = "client/"

Move = Callable[[Experiment, Allocation, int], Transition | None]
Tell = Callable[[Experiment], bytes]


class Asked(NamedTuple):
    """What every write carries: expected version ("" for any), idempotency key ("" for none), who asks."""

    etag: str = ""
    request_id: str = ""
    actor: str = ""

    @property
    def client(self) -> str:
        """The actor as the audit has it: marked as a client's word."""
        return f"{CLIENT}{self.actor or 'unnamed'}"


class Done(NamedTuple):
    """An experiment after a write, and what was told of the write when it was made (see ``Commit.answer``)."""

    experiment: Experiment
    answer: bytes = b""


def asked(etag: str, request_id: str, actor: str) -> Asked:
    """Checked. Raises InvalidArgument."""
    check_text("request_id", request_id, MAX_REQUEST_ID_BYTES)
    check_text("actor", actor, MAX_ACTOR_BYTES)
    return Asked(etag, request_id, actor)


def check_text(field: str, text: str, most: int) -> str:
    """Printable text of at most so many bytes. Raises InvalidArgument."""
    size = len(text.encode())
    if size > most:
        raise InvalidArgument.at(field, f"it has {size} bytes; send at most {most}")
    if not text.isprintable():
        raise InvalidArgument.at(field, "it holds a line break or another character that cannot be printed")
    return text


class Changes:
    """Changes experiments in the store, each change once."""

    def __init__(self, store: ControlStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._securing = Securing(store)

    def told(self, name: str, etag: str = "") -> Durability:
        """See ``Securing.told``."""
        return self._securing.told(name, etag)

    def load(self, name: str) -> Stored:
        """The experiment. Raises NotFound, CorruptStored."""
        stored = self._store.load(name)
        if stored is None:
            raise missing(name)
        return stored

    def create(self, spec: ExperimentSpec, wanted: Asked) -> Done:
        """A new experiment. Raises AlreadyExists."""
        name = spec.experiment
        now_ms = self._clock.now_ms()
        try:
            if self._store.load(name) is not None:
                raise _taken(name)
            transition = create(spec, self._store.next_uid(), secrets.token_bytes(SALT_BYTES), now_ms)
            audit = audit_record(
                None, transition, actor=wanted.client, sequence=0, previous_hash=GENESIS, now_ms=now_ms
            )
            self._store.commit(
                Commit(0, transition.experiment, transition.allocation, audit, request_id=wanted.request_id)
            )
        except (AlreadyExists, Stale):
            if (done := self._replayed(name, wanted)) is not None:
                return done
            raise _taken(name) from None
        self._securing.soon(name)
        _say(name, None, transition, wanted)
        return Done(transition.experiment)

    def apply(self, name: str, wanted: Asked, move: Move, tell: Tell = lambda _before: b"") -> Done:
        """Move an experiment on. ``tell`` says of the one before what the answer has beside the experiment.

        Raises NotFound, NotAllowed, and Stale when the etag is another or others keep changing it.
        """
        for _ in range(ATTEMPTS):
            stored = self.load(name)
            if (done := self._replayed(name, wanted)) is not None:
                return done
            before = stored.experiment
            _check_etag(before, wanted)
            now_ms = max(self._clock.now_ms(), before.update_time_ms)
            transition = move(before, stored.allocation, now_ms)
            if transition is None:
                return Done(before)
            audit = audit_record(
                (before, stored.allocation),
                transition,
                actor=wanted.client,
                sequence=stored.audit_sequence,
                previous_hash=stored.audit_hash,
                now_ms=now_ms,
            )
            answer = tell(before)
            commit = Commit(
                stored.generation,
                transition.experiment,
                transition.allocation,
                audit,
                request_id=wanted.request_id,
                answer=answer,
            )
            try:
                self._store.commit(commit)
            except Stale:
                self._clock.sleep(PAUSE_S * secrets.randbelow(1000) / 1000)
                continue
            self._securing.soon(name)
            _say(name, before, transition, wanted)
            return Done(transition.experiment, answer)
        raise Stale(
            f"{name} changed {ATTEMPTS} times while this was tried; read it again, then retry",
            resource=experiment_resource(name),
        )

    def delete(self, name: str, wanted: Asked) -> None:
        """Remove an experiment that is not running, with all it has. One that cannot be read goes too, without etag."""
        if wanted.request_id and self._store.deleted_by(name, wanted.request_id):
            self._store.clear_partitions(name)  # its maker may have died before that
            return
        for _ in range(ATTEMPTS):
            last: AuditRecord | None = None
            try:
                stored = self.load(name)
            except NotFound:
                self._store.clear_partitions(name)
                raise
            except CorruptStored as error:
                if wanted.etag or "generation" not in error.metadata:
                    raise
                generation = int(error.metadata["generation"])
            else:
                _check_etag(stored.experiment, wanted)
                if stored.experiment.state is State.RUNNING:
                    raise NotAllowed(
                        f"{name} is running; pause it first, or promote an arm",
                        reason="RUNNING",
                        resource=experiment_resource(name),
                    )
                generation, last = stored.generation, self._epitaph(stored, wanted)
            try:
                self._store.delete(name, generation, last, wanted.request_id)
            except Stale:
                self._clock.sleep(PAUSE_S * secrets.randbelow(1000) / 1000)
                continue
            log.info("experiment_deleted", experiment=name, actor=wanted.client)
            return
        raise Stale(
            f"{name} changed {ATTEMPTS} times while this was tried; read it again, then retry",
            resource=experiment_resource(name),
        )

    def _epitaph(self, stored: Stored, wanted: Asked) -> AuditRecord:
        """The last audit record: who deleted it, and the shares that its units had."""
        experiment, allocation = stored.experiment, stored.allocation
        return audit_record(
            (experiment, allocation),
            Transition(experiment, allocation, "deleted", ""),
            actor=wanted.client,
            sequence=stored.audit_sequence,
            previous_hash=stored.audit_hash,
            now_ms=max(self._clock.now_ms(), experiment.update_time_ms),
        )

    def _replayed(self, name: str, wanted: Asked) -> Done | None:
        """The present experiment, and what was told then, when a write with this id was done before."""
        outcome = self._store.outcome_of(name, wanted.request_id) if wanted.request_id else None
        return None if outcome is None else Done(self.load(name).experiment, outcome.answer)


def missing(name: str) -> NotFound:
    """There is no such experiment."""
    resource = experiment_resource(name)
    return NotFound(
        f"there is no {resource}; list the experiments to see their names",
        reason="EXPERIMENT_NOT_FOUND",
        resource=resource,
    )


def arm_index(experiment: Experiment, arm: str) -> int:
    """Index of an arm. Raises NotFound."""
    index = experiment.spec.arm_index(arm)
    if index is None:
        names = ", ".join(each.name for each in experiment.spec.arms)
        resource = f"{experiment_resource(experiment.name)}/arms/{arm}"
        raise NotFound(
            f"there is no {resource}; the arms are {names}", reason="ARM_NOT_FOUND", resource=resource
        )
    return index


def _check_etag(experiment: Experiment, wanted: Asked) -> None:
    if wanted.etag and wanted.etag != experiment.etag:
        raise Stale(
            f"{experiment.name} changed since it was read: its etag is {experiment.etag}, not {wanted.etag[:64]}; "
            "read it again, then retry",
            reason="ETAG_MISMATCH",
            resource=experiment_resource(experiment.name),
            etag=experiment.etag,
        )


def _taken(name: str) -> AlreadyExists:
    resource = experiment_resource(name)
    return AlreadyExists(
        f"{resource} exists already; update it, or choose another name",
        reason="EXPERIMENT_EXISTS",
        resource=resource,
    )


def _say(name: str, before: Experiment | None, transition: Transition, wanted: Asked) -> None:
    log.info(
        "experiment_changed",
        experiment=name,
        action=transition.action,
        actor=wanted.client,
        reason=transition.reason,
        state_before=before.state.value if before else "",
        state_after=transition.experiment.state.value,
        epoch=transition.experiment.epoch,
        after_ppm=transition.allocation.shares_ppm,
        allocation=transition.allocation.number,
    )
