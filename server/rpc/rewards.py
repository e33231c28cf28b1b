"""The reward service: verify -> accept -> packed append to the experiment's log. It folds nothing and keeps nothing.

A call is appended whole or refused whole as UNAVAILABLE, and may then be sent again: folding drops repeats. What
is wrong with one event is that event's result, never the call's.
"""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import cast

import grpc

from bandit.errors import InvalidArgument, Rejected, StoreUnavailable
from bandit.ids import parse_ledger
from bandit.log import (
    GRPC,
    OUTCOME_APPLIED,
    OUTCOME_CONFLICT,
    OUTCOME_DUPLICATE,
    OUTCOME_LATE,
    OUTCOME_REJECTED,
    OUTCOME_SUPERSEDED,
    Append,
)
from bandit.reward import Amendment, RewardRecord
from bandit.v1 import reward_service_pb2 as pb
from bandit.v1 import reward_service_pb2_grpc
from server.clock import Clock
from server.intake.accept import accept
from server.intake.senders import Senders
from server.rates import Rates, client_of
from server.rpc.appends import Appends
from server.rpc.convert import duration, reward_event
from server.rpc.counting import ServiceTelemetry, Uncounted
from server.rpc.doubt import Doubt
from server.rpc.tally import NOWHERE, Tally
from server.snapshot import Entry, Snapshot, SnapshotKeeper
from server.store.base import Durability, Store
from server.store.fed import LATE, RECEIVED, REJECTED

MAX_EVENTS = 1000
MESSAGE_CHARS = 300
REPLY_BYTES = 16
WAIT_S = 10.0
WAIT_CAP_S = 30.0
ANSWER_S = 0.05  # kept of a deadline to answer in
WAITING_AT_ONCE = 16

_LATE = "LATE"
_ACCEPTED = pb.RewardResult(outcome=pb.REWARD_OUTCOME_ACCEPTED)
_OUTCOMES = {
    OUTCOME_APPLIED: pb.RewardResult(outcome=pb.REWARD_OUTCOME_APPLIED),
    OUTCOME_DUPLICATE: pb.RewardResult(outcome=pb.REWARD_OUTCOME_DUPLICATE),
    OUTCOME_CONFLICT: pb.RewardResult(
        outcome=pb.REWARD_OUTCOME_CONFLICT,
        reason="CONFLICT",
        message="this decision and metric have a reward of another value, which stays",
    ),
    OUTCOME_SUPERSEDED: pb.RewardResult(
        outcome=pb.REWARD_OUTCOME_SUPERSEDED,
        reason="SUPERSEDED",
        message="a later or larger reward of this decision, or a correction of it, stands",
    ),
    OUTCOME_LATE: pb.RewardResult(
        outcome=pb.REWARD_OUTCOME_LATE,
        reason=_LATE,
        message="the attribution window was over when the log took it",
    ),
    OUTCOME_REJECTED: pb.RewardResult(
        outcome=pb.REWARD_OUTCOME_REJECTED,
        reason="UNKNOWN_ALLOCATION",
        message="the ledger has no place for it: allocation, arm or metric of the decision are not known there, "
        "or the decision has too many rewards to add up already",
    ),
}


@dataclass(slots=True)
class _Batch:
    """Records of one ledger and kind out of one call, and the places of their events; ``uid``: the experiment's."""

    uid: int
    records: list[bytes] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    reply: bytes = b""


_LEVELS = {
    pb.DURABILITY_MEMORY: Durability.MEMORY,
    pb.DURABILITY_REPLICATED: Durability.REPLICATED,
    pb.DURABILITY_FSYNCED: Durability.FSYNCED,
}
_SAFE = {safe: wire for wire, safe in _LEVELS.items()}
Batches = dict[tuple[str, bytes], _Batch]
_OUTCOME_WORDS = {
    number: name.removeprefix("REWARD_OUTCOME_").lower() for name, number in pb.RewardOutcome.items()
}


class Rewards(reward_service_pb2_grpc.RewardServiceServicer):
    """Takes rewards for the experiments of the keeper's snapshot."""

    def __init__(
        self,
        keeper: SnapshotKeeper,
        store: Store,
        clock: Clock,
        telemetry: ServiceTelemetry | None = None,
        tally: Tally | None = None,
        durability: Durability = Durability.MEMORY,
        rates: Rates | None = None,
    ) -> None:
        self._rates = rates
        self._telemetry = telemetry or Uncounted()
        self._tally = tally
        self._keeper = keeper
        self._store = store
        self._durability = _SAFE[durability]
        self.doubt = Doubt(store, clock, known=self._knows)
        self._appends = {wire: Appends(store, safe, self.doubt.remember) for wire, safe in _LEVELS.items()}
        self._clock = clock
        self._waiting = threading.BoundedSemaphore(WAITING_AT_ONCE)
        self._senders = Senders(GRPC.decode())

    def ReportRewards(  # noqa: N802
        self, request: pb.ReportRewardsRequest, context: grpc.ServicerContext
    ) -> pb.ReportRewardsResponse:
        """One batch."""
        if not 1 <= len(request.events) <= MAX_EVENTS:
            raise InvalidArgument.at(
                "events", f"{len(request.events)} events; send 1 to {MAX_EVENTS} in a batch"
            )
        source = self._senders.source_of(request.source)
        if self._rates is not None:
            self._rates.take(client_of(context.peer()), len(request.events))
        snapshot = self._keeper.snapshot
        if snapshot is None:
            raise StoreUnavailable(
                "this server has not read any experiment yet; send all again in a second", reason="NOT_READY"
            )
        results: list[pb.RewardResult] = [_ACCEPTED] * len(request.events)
        batches = self._sort(snapshot, request, results)
        safe = pb.DURABILITY_UNSPECIFIED
        if batches:
            named = source.encode() if request.source else b""
            safe = self._append(batches, results, request.durability, named)
        if self._tally is not None:
            _account(self._tally, batches, results, source)
        if batches and request.wait and self._waiting.acquire(blocking=False):
            try:
                self._await(batches, results, context)
            finally:
                self._waiting.release()
        for (outcome, reason), count in Counter((each.outcome, each.reason) for each in results).items():
            self._telemetry.rewarded(_OUTCOME_WORDS[outcome], reason, count)
        return pb.ReportRewardsResponse(results=results, durability=safe)

    def ReportRewardStream(  # noqa: N802
        self, request_iterator: Iterator[pb.ReportRewardStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.ReportRewardStreamResponse]:
        """Batch after batch."""
        for message in request_iterator:
            began = perf_counter()
            response = self.ReportRewards(message.request, context)
            yield pb.ReportRewardStreamResponse(response=response, elapsed=duration(perf_counter() - began))

    def _sort(
        self, snapshot: Snapshot, request: pb.ReportRewardsRequest, results: list[pb.RewardResult]
    ) -> Batches:
        """Accepted records by ledger and kind of entry; the rest are answered in ``results``."""
        batches: Batches = {}
        now_ms = self._clock.now_ms()
        for place, event in enumerate(request.events):
            try:
                entry, record = self._accept(snapshot, event, now_ms)
            except Rejected as error:
                results[place] = _refused(error)
                continue
            reward = record.reward if isinstance(record, Amendment) else record
            key = (entry.ledger(reward.issuer, reward.number), record.kind)
            batch = batches.get(key)
            if batch is None:
                reply = secrets.token_bytes(REPLY_BYTES) if request.wait else b""
                batch = batches[key] = _Batch(entry.experiment.uid, reply=reply)
            batch.records.append(record.pack())
            batch.places.append(place)
        return batches

    def _accept(
        self, snapshot: Snapshot, event: pb.RewardEvent, now_ms: int
    ) -> tuple[Entry, RewardRecord | Amendment]:
        """The experiment and the record. Raises Rejected, and StoreUnavailable when our snapshot is too old to tell."""
        return accept(self._keeper, snapshot, event.token, event.experiment, reward_event(event), now_ms)

    def _append(
        self,
        batches: Batches,
        results: list[pb.RewardResult],
        wanted: pb.Durability.ValueType,
        source: bytes,
    ) -> pb.Durability.ValueType:
        """Append, and answer what is gone. Returns how safe the rest is."""
        appends = self._appends.get(wanted or self._durability)
        if appends is None:
            raise InvalidArgument.at(
                "durability", f"{wanted} is none; send MEMORY, REPLICATED, FSYNCED or none"
            )
        entries = [
            Append(name, batch.uid, kind, b"".join(batch.records), batch.reply, source)
            for (name, kind), batch in batches.items()
        ]
        began = perf_counter()
        places, safe = appends.append_kept(entries)
        self._telemetry.appended(perf_counter() - began)
        for ((name, kind), batch), place in zip(list(batches.items()), places, strict=True):
            if place:
                continue
            if (snapshot := self._keeper.snapshot) is not None and snapshot.set_back:
                raise StoreUnavailable(
                    f"the store lost experiments/{name}, which may be restored; send all again later",
                    reason="STORE_SET_BACK",
                )
            error = Rejected(f"experiments/{parse_ledger(name)[0]} was deleted", reason="UNKNOWN_EXPERIMENT")
            for index in batch.places:
                results[index] = _refused(error)
            del batches[name, kind]
        return _SAFE[safe] if batches else pb.DURABILITY_UNSPECIFIED

    def _knows(self, uid: int) -> bool:
        snapshot = self._keeper.snapshot
        return snapshot is not None and uid in snapshot.by_uid

    def _await(self, batches: Batches, results: list[pb.RewardResult], context: grpc.ServicerContext) -> None:
        """Fill in final outcomes, as far as they come in time."""
        left = cast("float | None", context.time_remaining())
        deadline = self._clock.monotonic_s() + (WAIT_S if left is None else min(left - ANSWER_S, WAIT_CAP_S))
        for (name, _), batch in batches.items():
            timeout_s = deadline - self._clock.monotonic_s()
            if timeout_s <= 0 or not context.is_active():
                return
            try:
                outcomes = self._store.await_reply(name, batch.reply, timeout_s)
            except StoreUnavailable:
                return  # they are in the log all the same
            if outcomes is not None:
                for index, outcome in zip(batch.places, outcomes, strict=False):
                    results[index] = _OUTCOMES.get(outcome, _ACCEPTED)


def _account(tally: Tally, batches: Batches, results: list[pb.RewardResult], source: str) -> None:
    """Tell the tally what became of a call's events, before anybody waits for more."""
    left = len(results)
    for (name, _), batch in batches.items():
        count = len(batch.places)
        left -= count
        tally.add((name, batch.uid), Counter({RECEIVED: count}), source)
    if left:
        late = sum(each.outcome == pb.REWARD_OUTCOME_LATE for each in results)
        tally.add(NOWHERE, Counter({RECEIVED: left, LATE: late, REJECTED: left - late}), source)


def _refused(error: Rejected) -> pb.RewardResult:
    late = error.reason == _LATE
    return pb.RewardResult(
        outcome=pb.REWARD_OUTCOME_LATE if late else pb.REWARD_OUTCOME_REJECTED,
        reason=error.reason,
        message=str(error)[:MESSAGE_CHARS],
    )
