"""The decision service: snapshot -> arm -> journal -> token. It calls no store, and a known experiment never fails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

import grpc
import structlog

from bandit.decide import Table, fresh_key
from bandit.errors import BanditError, CorruptStored, InvalidArgument, NotFound, StoreUnavailable
from bandit.ids import parse_experiment
from bandit.ledger import bucket_of
from bandit.ranges import PPM
from bandit.token import REROUTED, TOKEN_BYTES, Claims, sign
from bandit.v1 import decision_service_pb2 as pb
from bandit.v1 import decision_service_pb2_grpc
from server.clock import Clock
from server.journal import Journal
from server.rpc.columns import decide_many, sign_many
from server.rpc.convert import (
    MODES,
    REASONS,
    check_attributes,
    check_session,
    check_unit,
    duration,
    set_duration,
)
from server.rpc.counting import ServiceTelemetry, Uncounted
from server.snapshot import Entry, Snapshot, SnapshotKeeper

log = structlog.get_logger(__name__)

MAX_UNITS = 10_000
COMPLAIN_EVERY_S = 10.0
MOST_PREPARED = 20_000
_REASON_WORDS = {number: str(reason) for reason, number in REASONS.items()}
_MODE_WORDS = {number: str(mode) for mode, number in MODES.items()}


class Decisions(decision_service_pb2_grpc.DecisionServiceServicer):
    """Answers from the keeper's snapshot. ``journal`` is None until the store has given an issuer number; what is
    decided before that, from the state of this machine's disk, is not counted.
    """

    def __init__(
        self,
        keeper: SnapshotKeeper,
        clock: Clock,
        journal: Journal | None = None,
        telemetry: ServiceTelemetry | None = None,
    ) -> None:
        self.journal = journal
        self._telemetry = telemetry or Uncounted()
        self.fallbacks = 0
        self.features_missing = 0
        self._prepared: dict[str, tuple[Table, tuple[bytes, ...]]] = {}
        self._keeper = keeper
        self._clock = clock
        self._complained_s = float("-inf")
        self._fresh = count()

    def Decide(self, request: pb.DecideRequest, context: grpc.ServicerContext) -> pb.DecideResponse:  # noqa: N802
        """One unit."""
        snapshot, journal = self._serving()
        entry = _find(snapshot, request.experiment)
        check_unit(request.unit, "unit")
        if entry.table.by_session:
            check_session(request.session, "session")
        if request.attributes:
            check_attributes(request.attributes)
        try:
            response = self._decide(snapshot, entry, journal, request)
        except Exception as error:  # noqa: BLE001 - a known experiment answers its control, whatever is broken
            self._complain(entry, error)
            response = self._control(snapshot, entry)
        self._telemetry.decided(_REASON_WORDS[response.reason], _MODE_WORDS[response.mode])
        return response

    def DecideBatch(  # noqa: N802
        self, request: pb.DecideBatchRequest, context: grpc.ServicerContext
    ) -> pb.DecideBatchResponse:
        """Many units of one experiment."""
        snapshot, journal = self._serving()
        entry = _find(snapshot, request.experiment)
        if not 1 <= len(request.units) <= MAX_UNITS:
            raise InvalidArgument.at("units", f"{len(request.units)} units; send 1 to {MAX_UNITS} in a batch")
        for index, unit in enumerate(request.units):
            if not 0 < len(unit) <= 64:
                check_unit(unit, f"units.{index}")
        if entry.table.by_session:
            _check_sessions(request)
        check_attributes(request.attributes)
        try:
            response = self._decide_batch(snapshot, entry, journal, request)
        except Exception as error:  # noqa: BLE001 - a known experiment answers its control, whatever is broken
            self._complain(entry, error)
            response = self._control_batch(snapshot, entry, len(request.units))
        self._telemetry.decided(
            _REASON_WORDS[response.reason], _MODE_WORDS[response.mode], len(request.units)
        )
        return response

    def DecideStream(  # noqa: N802
        self, request_iterator: Iterator[pb.DecideStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.DecideStreamResponse]:
        """Unit after unit."""
        for message in request_iterator:
            yield pb.DecideStreamResponse(response=self.Decide(message.request, context))

    def _serving(self) -> tuple[Snapshot, Journal | None]:
        snapshot = self._keeper.snapshot
        if snapshot is None:
            raise StoreUnavailable(
                "this server has not read any experiment yet; ask another, or again in a second",
                reason="NOT_READY",
            )
        return snapshot, self.journal

    def _decide(
        self, snapshot: Snapshot, entry: Entry, journal: Journal | None, request: pb.DecideRequest
    ) -> pb.DecideResponse:
        now_s = self._clock.monotonic_s()
        table, unit = snapshot.table(entry, now_s), request.unit
        issuer = journal.issuer if journal else 0
        key = fresh_key(unit, issuer, next(self._fresh)) if table.fresh else unit
        arm, cohort, unit_hash, propensity_ppm, features, rerouted = table.decide(
            key, request.attributes, request.session
        )
        if table.encoder is not None:
            self.features_missing += table.encoder.take_missing()
        number = None
        if table.counted and journal is not None:
            bucket = bucket_of(unit_hash, rerouted=rerouted)
            number = journal.record(table.uid, table.epoch, table.allocation, cohort, arm, bucket)
        response = pb.DecideResponse.FromString(self._begun(table)[arm])
        set_duration(response.state_age, now_s - snapshot.read_s)
        response.mode = MODES[snapshot.mode(entry, now_s)]
        if table.chooser is not None or table.apart:
            response.propensity = propensity_ppm / PPM
        if number is not None:
            claims = Claims(
                table.uid,
                table.epoch,
                table.allocation,
                issuer,
                number,
                self._clock.now_ms(),
                unit_hash,
                propensity_ppm,
                cohort | REROUTED if rerouted else cohort,
                arm,
                features,
            )
            response.decision_id = str(claims.decision_id)
            response.token = sign(snapshot.keys, claims)
            response.counted = True
        return response

    def _begun(self, table: Table) -> tuple[bytes, ...]:
        """Replies of a table as bytes, one for each arm, with what is the same in each: 1 us less than by fields."""
        made = self._prepared.get(table.name)
        if made is None or made[0] is not table:
            replies = [
                pb.DecideResponse(
                    arm=arm,
                    propensity=share_ppm / PPM,
                    reason=REASONS[table.reason],
                    epoch=table.epoch,
                    allocation_number=table.allocation,
                )
                for arm, share_ppm in zip(table.arms, table.shares_ppm, strict=True)
            ]
            if len(self._prepared) > MOST_PREPARED:
                self._prepared.clear()  # names of experiments that are gone
            made = self._prepared[table.name] = (
                table,
                tuple(map(pb.DecideResponse.SerializeToString, replies)),
            )
        return made[1]

    def _decide_batch(
        self, snapshot: Snapshot, entry: Entry, journal: Journal | None, request: pb.DecideBatchRequest
    ) -> pb.DecideBatchResponse:
        now_s = self._clock.monotonic_s()
        table = snapshot.table(entry, now_s)
        issuer = journal.issuer if journal else 0
        units: Sequence[str] = request.units
        if table.fresh:
            units = [fresh_key(unit, issuer, next(self._fresh)) for unit in units]
        first_one = table.decide(units[0], request.attributes)
        cohort, features = first_one.cohort, first_one.features
        if table.encoder is not None:
            self.features_missing += table.encoder.take_missing()
        columns = decide_many(table, units, request.sessions, features, cohort)
        arms = columns.arms.tobytes()
        first = None
        if table.counted and journal is not None:
            buckets = columns.buckets.tobytes()
            first = journal.record_many(table.uid, table.epoch, table.allocation, cohort, arms, buckets)
        response = pb.DecideBatchResponse(
            arms=table.arms,
            arm_indexes=arms,
            propensities_ppm=columns.propensities_ppm.tolist(),
            reason=REASONS[table.reason],
            epoch=table.epoch,
            allocation_number=table.allocation,
            state_age=duration(now_s - snapshot.read_s),
            mode=MODES[snapshot.mode(entry, now_s)],
        )
        if first is not None:
            claims = Claims(
                table.uid,
                table.epoch,
                table.allocation,
                issuer,
                first,
                self._clock.now_ms(),
                0,
                0,
                cohort,
                0,
                features,
            )
            response.tokens = sign_many(snapshot.keys, claims, columns)
            response.token_size = TOKEN_BYTES + len(features)
            response.first_decision_id = str(claims.decision_id)
            response.counted = True
        return response

    def _control(self, snapshot: Snapshot, entry: Entry) -> pb.DecideResponse:
        experiment = entry.experiment
        return pb.DecideResponse(
            arm=experiment.spec.arms[experiment.spec.control_index].name,
            propensity=1.0,
            reason=pb.DECISION_REASON_FALLBACK,
            epoch=experiment.epoch,
            state_age=duration(self._clock.monotonic_s() - snapshot.read_s),
            mode=pb.SERVING_MODE_FALLBACK,
        )

    def _control_batch(self, snapshot: Snapshot, entry: Entry, count: int) -> pb.DecideBatchResponse:
        experiment = entry.experiment
        return pb.DecideBatchResponse(
            arms=[arm.name for arm in experiment.spec.arms],
            arm_indexes=bytes([experiment.spec.control_index]) * count,
            propensities_ppm=[PPM] * count,
            reason=pb.DECISION_REASON_FALLBACK,
            epoch=experiment.epoch,
            state_age=duration(self._clock.monotonic_s() - snapshot.read_s),
            mode=pb.SERVING_MODE_FALLBACK,
        )

    def _complain(self, entry: Entry, error: Exception) -> None:
        """Say so once in a while, however many requests meet the same fault."""
        self.fallbacks += 1
        now_s = self._clock.monotonic_s()
        if now_s - self._complained_s >= COMPLAIN_EVERY_S:
            self._complained_s = now_s
            log.error(
                "decision_failed", experiment=entry.experiment.name, fallbacks=self.fallbacks, exc_info=error
            )


def _check_sessions(request: pb.DecideBatchRequest) -> None:
    """One for each unit, in the mode that draws a unit anew in each of its sessions."""
    if len(request.sessions) != len(request.units):
        raise InvalidArgument.at(
            "sessions",
            f"{len(request.sessions)} sessions for {len(request.units)} units; this experiment draws a unit anew in "
            "each of its sessions: send one for each unit, in the same order",
        )
    for index, session in enumerate(request.sessions):
        if not 0 < len(session) <= 64:
            check_session(session, f"sessions.{index}")


def _find(snapshot: Snapshot, resource: str) -> Entry:
    entry = snapshot.by_resource.get(resource)
    if entry is None:
        raise _unknown(snapshot, resource)
    return entry


def _unknown(snapshot: Snapshot, resource: str) -> BanditError:
    name = parse_experiment(resource, "experiment")
    if (why := snapshot.unreadable.get(name)) is not None:
        return CorruptStored(
            f"{resource}: {why}; restore the store, or delete and create it again", resource=resource
        )
    return NotFound(
        f"there is no {resource}; if it was created within the last second, ask again",
        reason="EXPERIMENT_NOT_FOUND",
        resource=resource,
    )
