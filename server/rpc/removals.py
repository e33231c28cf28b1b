"""Removing the events of one source from an experiment, and releasing it; what is asked is held against what is kept.

Only events that are kept can be taken back. The check is made again after the commit, as the ledger of the time before
the events kept may have moved on meanwhile; then the answer says how many stay.
"""

from __future__ import annotations

from bandit.errors import InvalidArgument, NotAllowed, NotFound
from bandit.ids import parse_experiment, trailing_name
from bandit.log import OTHERS
from bandit.rollout import transitions
from bandit.rollout.state import Allocation, Experiment
from bandit.rollout.transitions import Transition
from bandit.spec.model import format_duration
from bandit.v1 import ingest_service_pb2 as pb
from server.clock import Clock
from server.messages import timestamp
from server.rpc.changes import MAX_REASON_BYTES, Changes, asked, check_text
from server.rpc.convert import experiment_to_proto
from server.store.base import RewardCounts, Store, Written
from server.store.packed import split_offset

MAX_SOURCE_BYTES = 64


class Removals:
    """Puts sources into quarantine and lets them out."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._changes = Changes(store, clock)

    def remove(self, request: pb.RemoveSourceRequest) -> pb.RemoveSourceResponse:
        """See the proto."""
        name = parse_experiment(request.name)
        source = _source(request.source)
        wanted = asked(request.etag, request.request_id, request.actor)
        reason = check_text("reason", request.reason, MAX_REASON_BYTES)
        since = request.since_time  # any bytes: its own conversion raises for what is no time
        since_ms = since.seconds * 1000 + since.nanos // 1_000_000 if request.HasField("since_time") else None
        if since_ms is not None and request.kept_only:
            raise InvalidArgument.at("kept_only", "it is set with since_time; send one of them")
        if since_ms is not None and not 0 <= since_ms <= self._clock.now_ms():
            raise InvalidArgument.at(
                "since_time", f"{since_ms} ms since 1970 is not in the past; send when its events turned bad"
            )

        def move(experiment: Experiment, allocation: Allocation, now_ms: int) -> Transition:
            begins_ms = self._begins(experiment, source, since_ms, kept_only=request.kept_only)
            what = f"from {_utc(begins_ms)} on" if begins_ms else "all there ever were"
            told = f"{source}, {what}{': ' if reason else ''}{reason}"
            return transitions.remove_source(experiment, allocation, source, begins_ms, now_ms, told)

        def tell(before: Experiment) -> bytes:
            counted = _counted(self._store.written(name), source)
            return pb.RemoveSourceResponse(counted=counted).SerializeToString()

        done = self._changes.apply(name, wanted, move, tell)
        response = pb.RemoveSourceResponse.FromString(done.answer)
        response.experiment.CopyFrom(experiment_to_proto(done.experiment))
        response.staying = _counted(self._store.written(trailing_name(name)), source)
        return response

    def release(self, request: pb.ReleaseSourceRequest) -> pb.ReleaseSourceResponse:
        """See the proto."""
        source = _source(request.source)
        wanted = asked(request.etag, request.request_id, request.actor)
        reason = check_text("reason", request.reason, MAX_REASON_BYTES)

        def move(experiment: Experiment, allocation: Allocation, now_ms: int) -> Transition:
            told = f"{source}{': ' if reason else ''}{reason}"
            return transitions.release_source(experiment, allocation, source, now_ms, told)

        done = self._changes.apply(parse_experiment(request.name), wanted, move)
        return pb.ReleaseSourceResponse(experiment=experiment_to_proto(done.experiment))

    def _begins(self, experiment: Experiment, source: str, since_ms: int | None, *, kept_only: bool) -> int:
        """From when on events are removed, Unix ms; 0 for all. Raises NotAllowed and NotFound."""
        name, retention_s = experiment.name, experiment.spec.event_retention
        base = self._store.written(trailing_name(name))
        if not retention_s or base is None:
            raise NotAllowed(
                f"the events of {name} are not kept, so none can be taken back; write event_retention in its spec, "
                "which keeps those counted from then on, or change an arm's digest to begin statistics anew",
                reason="EVENTS_NOT_KEPT",
            )
        self._known(name, source)
        kept_ms = split_offset(base.offset)[0] + 1
        older = _counted(base, source)
        if since_ms is not None and since_ms >= kept_ms:
            return since_ms
        if not older:
            return since_ms or 0
        if kept_only:
            return kept_ms
        raise NotAllowed(
            f"{older} rewards of {source} were counted before {_utc(kept_ms)}, since when events of {name} are kept "
            f"(event_retention {format_duration(retention_s)}): they cannot be removed; remove from a later time on "
            "(since_time), or what is kept (kept_only), or change an arm's digest to begin statistics anew",
            reason="EVENTS_TOO_OLD",
            older=str(older),
        )

    def _known(self, name: str, source: str) -> None:
        now = self._store.written(name)
        known = {*(now.counts.sources if now else ()), *self._store.fed(name), *self._store.sources()}
        if source not in known:
            names = ", ".join(sorted(each for each in known if each)) or "none"
            raise NotFound(
                f"{name} has no source {source}; those that are known are {names}", reason="SOURCE_NOT_FOUND"
            )


def _utc(time_ms: int) -> str:
    return timestamp(time_ms).ToJsonString()


def _source(name: str) -> str:
    check_text("source", name, MAX_SOURCE_BYTES)
    if not name:
        raise InvalidArgument.at("source", "it is empty; send the name of a source, as ListSources has it")
    if name == OTHERS.decode():
        raise InvalidArgument.at(
            "source", f"{name} stands for all sources beyond the first so many, which are not told apart"
        )
    return name


def _counted(written: Written | None, source: str) -> int:
    """Rewards of a source that were not rejected; 0 where it never had any."""
    counts = written.counts.sources.get(source, RewardCounts()) if written else RewardCounts()
    return counts.applied + counts.duplicate + counts.conflict + counts.superseded + counts.late
