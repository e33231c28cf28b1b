"""What operators ask of this very server; it works without the store, and orders hold for all of the machine."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence

import grpc
import structlog

from bandit.errors import NotAllowed, StoreUnavailable
from bandit.ids import arm_resource, parse_arm
from bandit.v1 import server_service_pb2 as pb
from bandit.v1 import server_service_pb2_grpc
from server.clock import Clock
from server.rpc.changes import MAX_REASON_BYTES, arm_index, asked, check_text, missing
from server.rpc.convert import MODES, duration
from server.snapshot import Snapshot, SnapshotKeeper
from server.stops import Stop, StopFile
from server.store.findings import Finding

log = structlog.get_logger(__name__)

_LOOKED_S = 1.0


class Local(server_service_pb2_grpc.ServerServiceServicer):
    """Orders go into the file, this process serves by them before it answers, the others in a moment.

    ``saved_ms``: when the state was last written to disk, None for never. ``findings`` looks at machine and store.
    """

    def __init__(
        self,
        keeper: SnapshotKeeper,
        stops: StopFile,
        clock: Clock,
        saved_ms: Callable[[], int | None] = lambda: None,
        findings: Callable[[], Sequence[Finding]] = lambda: (),
    ) -> None:
        self._keeper = keeper
        self._stops = stops
        self._clock = clock
        self._saved_ms = saved_ms
        self._findings = findings
        self._looking = threading.Lock()
        self._looked_s = float("-inf")
        self._found: Sequence[Finding] = ()

    def GetServer(  # noqa: N802
        self, request: pb.GetServerRequest, context: grpc.ServicerContext
    ) -> pb.GetServerResponse:
        """How this server stands."""
        return pb.GetServerResponse(server=self._server())

    def StopArm(  # noqa: N802
        self, request: pb.StopArmRequest, context: grpc.ServicerContext
    ) -> pb.StopArmResponse:
        """No more traffic for an arm on this machine."""
        name, arm = parse_arm(request.name)
        wanted = asked("", "", request.actor)
        reason = check_text("reason", request.reason, MAX_REASON_BYTES)
        entry = self._snapshot().entries.get(name)
        if entry is None:
            raise missing(name)
        experiment = entry.experiment
        index = arm_index(experiment, arm)
        if index == experiment.spec.control_index:
            raise NotAllowed(
                f"{arm} is the control, which everything falls back to; there is nothing to stop it for",
                reason="CONTROL_CANNOT_STOP",
            )
        stop = self._stops.add(
            Stop(
                id=secrets.token_hex(8),
                experiment=name,
                uid=experiment.uid,
                arm=arm,
                digest=experiment.spec.arms[index].digest,
                attempt=experiment.arms[index].attempt,
                time_ms=self._clock.now_ms(),
                actor=wanted.client,
                reason=reason,
            )
        )
        self._keeper.serve_by_halts()
        log.warning("arm_stopped", experiment=name, arm=arm, actor=stop.actor, reason=stop.reason)
        return pb.StopArmResponse(stop=stop_to_proto(stop))

    def AcceptStore(  # noqa: N802
        self, request: pb.AcceptStoreRequest, context: grpc.ServicerContext
    ) -> pb.AcceptStoreResponse:
        """The store is taken as it is."""
        wanted = asked("", "", request.actor)
        reason = check_text("reason", request.reason, MAX_REASON_BYTES)
        set_back = self._snapshot().set_back
        # Also when this process believes the store: a learner of this machine may not.
        self._stops.accept(self._clock.now_ms())
        log.warning("store_acceptance_ordered", actor=wanted.client, reason=reason, set_back=set_back)
        return pb.AcceptStoreResponse(server=self._server())

    def ListFindings(  # noqa: N802
        self, request: pb.ListFindingsRequest, context: grpc.ServicerContext
    ) -> pb.ListFindingsResponse:
        """What is right and wrong with this machine and its store. Whoever asks meanwhile waits for the same look."""
        with self._looking:
            if self._clock.monotonic_s() - self._looked_s >= _LOOKED_S:
                self._found = self._findings()
                self._looked_s = self._clock.monotonic_s()
            return pb.ListFindingsResponse(findings=[pb.Finding(**each._asdict()) for each in self._found])

    def standing(self, name: str) -> list[str]:
        """What an operator has to know of this server's state of one experiment, in sentences."""
        snapshot = self._keeper.snapshot
        told = [] if snapshot is None else standing(snapshot, self._clock.monotonic_s())
        if snapshot is not None and (entry := snapshot.entries.get(name)) is not None and entry.fault:
            told.append(f"this server does not serve it as it is stored: {entry.fault}")
        told += [
            f"{stop.arm} is stopped on this server by {stop.actor}: {stop.reason}"
            for stop in self._stops.ordered.stops
            if stop.experiment == name
        ]
        return told

    def _snapshot(self) -> Snapshot:
        snapshot = self._keeper.snapshot
        if snapshot is None:
            raise StoreUnavailable(
                "this server has not read any experiment yet, and gives none any traffic", reason="NOT_READY"
            )
        return snapshot

    def _server(self) -> pb.Server:
        ordered = self._stops.ordered
        server = pb.Server(stops=map(stop_to_proto, ordered.stops), version=self._keeper.version)
        if (saved_ms := self._saved_ms()) is not None:
            server.saved_time.FromMilliseconds(saved_ms)
        if ordered.fault:
            server.warnings.append(
                f"{ordered.fault}; until it is mended or deleted every unit gets the control here"
            )
        snapshot = self._keeper.snapshot
        if snapshot is None:
            server.warnings.append("nothing was read from the store yet")
            return server
        now_s = self._clock.monotonic_s()
        server.mode = MODES[snapshot.mode_now(now_s)]
        server.state_age.CopyFrom(duration(now_s - snapshot.read_s))
        server.experiments = len(snapshot.entries)
        server.faulty = len(snapshot.unreadable) + sum(1 for each in snapshot.entries.values() if each.fault)
        server.set_back = snapshot.set_back
        server.lease_expired = snapshot.lapsed(now_s)
        server.warnings.extend(standing(snapshot, now_s))
        return server


def stop_to_proto(stop: Stop) -> pb.LocalStop:
    """A stop on the wire."""
    message = pb.LocalStop(name=arm_resource(stop.experiment, stop.arm), actor=stop.actor, reason=stop.reason)
    message.time.FromMilliseconds(stop.time_ms)
    return message


def standing(snapshot: Snapshot, now_s: float) -> list[str]:
    """What an operator has to know of this server's state, in sentences."""
    told = []
    if snapshot.set_back:
        told.append(
            f"this server does not believe the store: {snapshot.set_back}; it goes on from its last good state. "
            "Restore the store, or take it as it is by `banditctl accept-store --server` with this server"
        )
    if snapshot.lapsed(now_s):
        told.append(
            f"this server has not reached the store for {now_s - snapshot.read_s:.0f} s, longer than its exposure "
            f"lease of {snapshot.lease_s:g} s: challengers get no traffic here"
        )
    return told
