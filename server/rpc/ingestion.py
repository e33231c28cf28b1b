"""The ingest service: how sources of rewards do, their dead letters, and the way back for those."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from bandit.errors import CorruptStored, InvalidArgument
from bandit.v1 import experiment_pb2, ingest_service_pb2, ingest_service_pb2_grpc
from server.clock import Clock
from server.intake.replay import matching, replay
from server.rpc.removals import Removals
from server.snapshot import SnapshotKeeper
from server.store.base import Store
from server.store.fed import DEAD, DROPPED, LATE, LOST, RECEIVED, REJECTED, Letter, SlotCounts
from server.store.packed import split_offset

PAGE, MOST_PAGE = 100, 500
QUIET_MS = 15_000
FORGOTTEN_MS = 86_400_000
"""After a day it was taken out on purpose: its accounts stay, and nobody is warned for ever."""


class Ingestion(ingest_service_pb2_grpc.IngestServiceServicer):
    """Reads the store each time; it holds nothing."""

    def __init__(self, store: Store, keeper: SnapshotKeeper, clock: Clock) -> None:
        self._store = store
        self._keeper = keeper
        self._clock = clock
        self._removals = Removals(store, clock)

    def ListSources(  # noqa: N802
        self, request: ingest_service_pb2.ListSourcesRequest, context: grpc.ServicerContext
    ) -> ingest_service_pb2.ListSourcesResponse:
        """See the proto."""
        found: dict[str, ingest_service_pb2.Source] = {}

        def source(name: str) -> ingest_service_pb2.Source:
            return found.setdefault(name, ingest_service_pb2.Source(name=name))

        buried = self._store.buried()
        dropped = buried.get("", SlotCounts({}, {})).counts.get(DROPPED, 0)
        for name, slot in buried.items():
            if name:
                _add_edge(source(name), slot.counts)
        names = self._store.names()
        for experiment in names:
            self._add_experiment(experiment, source)
        for experiment, stored in sorted(self._store.load_many(names).items()):
            held = () if isinstance(stored, Exception) else stored.experiment.quarantines
            for name in sorted({each.source for each in held if each.is_open}):
                source(name).removed_from.append(experiment)
        said = self._store.sources()
        now_ms = self._clock.now_ms()
        for name, status in said.items():
            _describe(source(name), status, now_ms)
        letters = sum(each.counts.dead_lettered for each in found.values())
        for each in found.values():
            counts = each.counts
            ended = counts.applied + counts.duplicate + counts.conflict + counts.superseded
            ended += counts.late + counts.rejected + counts.dead_lettered
            counts.waiting = max(counts.received - ended, 0)
        return ingest_service_pb2.ListSourcesResponse(
            sources=[found[name] for name in sorted(found)],
            dead_letters=max(letters - dropped, 0),
            dead_letters_dropped=dropped,
        )

    def ListDeadLetters(  # noqa: N802
        self, request: ingest_service_pb2.ListDeadLettersRequest, context: grpc.ServicerContext
    ) -> ingest_service_pb2.ListDeadLettersResponse:
        """See the proto."""
        limit, after = _page(request.page_size, request.page_token)
        letters, following = matching(self._store, after, limit, request.source, request.reason)
        return ingest_service_pb2.ListDeadLettersResponse(
            letters=[_letter(each) for each in letters], next_page_token=following
        )

    def ReplayDeadLetters(  # noqa: N802
        self, request: ingest_service_pb2.ReplayDeadLettersRequest, context: grpc.ServicerContext
    ) -> ingest_service_pb2.ReplayDeadLettersResponse:
        """See the proto."""
        limit, after = _page(request.page_size, request.page_token)
        letters, following = matching(self._store, after, limit, request.source, request.reason)
        told = replay(self._store, self._keeper, self._clock, letters)
        return ingest_service_pb2.ReplayDeadLettersResponse(
            accepted=told.accepted,
            refused=told.refused,
            stayed=sum(told.reasons.values()),
            reasons=told.reasons,
            next_page_token=following,
        )

    def _ledgers(self, name: str) -> tuple[str, ...]:
        """As this server knows the experiment: one that it has not read yet has brought nothing here."""
        snapshot = self._keeper.snapshot
        entry = snapshot.entries.get(name) if snapshot else None
        return (name,) if entry is None else entry.ledgers

    def RemoveSource(  # noqa: N802
        self, request: ingest_service_pb2.RemoveSourceRequest, context: grpc.ServicerContext
    ) -> ingest_service_pb2.RemoveSourceResponse:
        """See the proto."""
        return self._removals.remove(request)

    def ReleaseSource(  # noqa: N802
        self, request: ingest_service_pb2.ReleaseSourceRequest, context: grpc.ServicerContext
    ) -> ingest_service_pb2.ReleaseSourceResponse:
        """See the proto."""
        return self._removals.release(request)

    def _add_experiment(self, name: str, source: Any) -> None:
        """Counts of one experiment; one that cannot be read is left out, as its status says so."""
        try:
            for ledger in self._ledgers(name):
                for each, slot in self._store.fed(ledger).items():
                    _add_edge(source(each), slot.counts)
            status = experiment_pb2.ExperimentStatus.FromString(self._store.status(name) or b"")
        except (CorruptStored, DecodeError):
            return
        for row in status.sources:
            counts, more = source(row.source).counts, row.rewards
            counts.applied += more.applied
            counts.duplicate += more.duplicate
            counts.conflict += more.conflict
            counts.superseded += more.superseded
            counts.late += more.late
            counts.rejected += more.rejected


def _add_edge(source: ingest_service_pb2.Source, counts: Mapping[str, int]) -> None:
    source.counts.received += counts.get(RECEIVED, 0)
    source.counts.late += counts.get(LATE, 0)
    source.counts.rejected += counts.get(REJECTED, 0)
    source.counts.dead_lettered += counts.get(DEAD, 0)
    source.lost += counts.get(LOST, 0)


def _describe(source: ingest_service_pb2.Source, status: bytes, now_ms: int) -> None:
    """What its process said of it; nothing of what cannot be read."""
    try:
        said = json.loads(status)
        told_ms, newest_ms = int(said["time_ms"]), int(said["newest_ms"])
        quiet = now_ms - told_ms > QUIET_MS
        source.MergeFrom(
            ingest_service_pb2.Source(
                kind=str(said["kind"]),
                connected=bool(said["connected"]) and not quiet,
                detail=str(said["detail"]),
                lag=sum(int(each) for each in said["lag"].values()),
                report_time=_time(told_ms),
                newest_time=_time(newest_ms) if newest_ms else None,
                skipped=int(said["skipped"]),
                rewinds=int(said["rewinds"]),
                refused_acks=int(said["refused_acks"]),
                owner=str(said["owner"]),
                warnings=[str(each) for each in said["warnings"]],
                reasons={str(name): int(count) for name, count in said["reasons"].items()},
            )
        )
        if now_ms - told_ms > FORGOTTEN_MS:
            source.detail = (
                f"it was last read {(now_ms - told_ms) / 86_400_000:.0f} days ago, by {said['owner']}"
            )
            source.ClearField("warnings")
        elif quiet:
            source.warnings.append(
                f"nobody reads it: it was last heard of {(now_ms - told_ms) / 1000:.0f} s ago, from {said['owner']}"
            )
    except (ValueError, TypeError, LookupError, AttributeError):
        source.warnings.append("what its process said of it cannot be read; is it of another version?")


def _page(size: int, token: str) -> tuple[int, str]:
    if not 0 <= size <= MOST_PAGE:
        raise InvalidArgument.at("page_size", f"{size}; ask for 1 to {MOST_PAGE}, or leave it out")
    if token:
        try:
            split_offset(token)
        except ValueError:
            raise InvalidArgument.at(
                "page_token", f"{token[:80]!r} is none; send the one of the last page"
            ) from None
    return size or PAGE, token


def _letter(letter: Letter) -> ingest_service_pb2.DeadLetter:
    return ingest_service_pb2.DeadLetter(
        id=letter.id,
        source=letter.source,
        reason=letter.reason,
        message=letter.message,
        body=letter.body,
        headers=dict(letter.headers),
        place=letter.place,
        # Files do not say when they took an event; the letter's id says when it was put away.
        time=_time(letter.time_ms or int(letter.id.partition("-")[0])),
    )


def _time(time_ms: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMilliseconds(time_ms)
    return stamp
