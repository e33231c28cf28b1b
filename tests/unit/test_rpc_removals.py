"""Removing a source by RPC: what is refused and in which words, what is committed, and what is told of it."""

from __future__ import annotations

from typing import Any

import pytest

from bandit.errors import BanditError, InvalidArgument, NotAllowed, NotFound
from bandit.ledger import ONE
from bandit.log import Append
from bandit.v1 import ingest_service_pb2 as pb
from server.rpc.removals import Removals
from server.store.base import RewardCounts
from tests.fakes import FakeClock
from tests.removing import NAME, Sent, Side, small

CLICKS, GRPC = 0, 1


def service(side: Side) -> Removals:
    return Removals(side.store, FakeClock(side.ms))


def ask(side: Side, source: str = "clicks", **more: Any) -> pb.RemoveSourceResponse:
    more.setdefault("name", f"experiments/{NAME}")
    since_ms = more.pop("since_ms", None)
    request = pb.RemoveSourceRequest(source=source, actor="anna", **more)
    if since_ms is not None:
        request.since_time.FromMilliseconds(since_ms)
    answer = service(side).remove(request)
    side.stored = side.load()
    return answer


def refused(error: type[BanditError], side: Side, *source: str, **more: Any) -> str:
    before = side.load()
    with pytest.raises(error) as caught:
        ask(side, *source, **more)
    assert side.load() == before
    return str(caught.value)


def world(retention: str = "1d", sent: int = 3) -> Side:
    side = Side("remembered", retention)
    side.expose(3)
    side.send([Sent(CLICKS, 1, number, 0, ONE) for number in range(sent)])
    side.send([Sent(GRPC, 1, 0, 0, 0), Sent(GRPC, 1, 9, 0, 0)])
    side.ms += 1000
    side.learn()
    return side


def counts(side: Side, source: str) -> RewardCounts:
    return side.writer.counts.sources[source]


def test_a_removal_takes_back_what_was_counted_and_rejects_what_comes() -> None:
    side = world()
    shares = side.stored.allocation
    assert counts(side, "grpc").conflict == 1
    answer = ask(side, reason="a bot")
    assert (answer.counted, answer.staying) == (3, 0)
    (held,) = answer.experiment.quarantines
    assert held.source == "clicks"
    assert not held.HasField("since_time")
    assert not held.HasField("until_time")
    side.writer.sync(side.stored)
    assert side.stored.allocation == shares
    side.settle()
    assert counts(side, "clicks") == RewardCounts(rejected=3)
    assert counts(side, "grpc") == RewardCounts(applied=2)
    side.send([Sent(CLICKS, 2, 1, 0, ONE)])
    side.learn()
    assert counts(side, "clicks") == RewardCounts(rejected=4)
    (record,) = side.store.audit(NAME, None, 1)
    assert (record.action, record.actor) == ("source_removed", "client/anna")
    assert record.reason == "clicks, all there ever were: a bot"
    assert record.shares_before_ppm == record.shares_after_ppm


def test_the_same_request_removes_once() -> None:
    side = world()
    first = ask(side, request_id="r1")
    side.writer.sync(side.stored)
    side.settle()
    again = ask(side, request_id="r1")
    assert (first.counted, again.counted) == (3, 3)
    assert len(again.experiment.quarantines) == 1
    assert "already" in refused(NotAllowed, side, request_id="r2")


def test_only_from_a_time_on() -> None:
    side = world()
    since_ms = side.ms
    side.send([Sent(CLICKS, 2, 1, 0, ONE)])
    side.learn()
    answer = ask(side, since_ms=since_ms)
    assert answer.experiment.quarantines[0].since_time.ToMilliseconds() == since_ms
    side.writer.sync(side.stored)
    side.settle()
    assert counts(side, "clicks") == RewardCounts(applied=3, rejected=1)
    (record,) = side.store.audit(NAME, None, 1)
    assert record.reason.startswith("clicks, from 2023-")


def test_older_events_than_those_kept_are_told_and_stay() -> None:
    with small(50):
        side = world("1m")
        side.ms += 120_000
        side.send([Sent(CLICKS, 2, 1, 0, ONE)])
        side.learn()
        side.settle()
        side.ms += 1000
        text = refused(NotAllowed, side)
        assert "3 rewards of clicks were counted before" in text
        assert "kept_only" in text
        assert text == refused(NotAllowed, side, since_ms=side.ms - 125_000)
        answer = ask(side, kept_only=True)
        assert (answer.counted, answer.staying) == (4, 3)
        side.writer.sync(side.stored)
        side.settle()
        assert counts(side, "clicks") == RewardCounts(applied=3, rejected=1)


def test_kept_only_takes_all_where_none_is_older() -> None:
    side = world()
    assert not ask(side, kept_only=True).experiment.quarantines[0].HasField("since_time")


def test_what_is_refused() -> None:
    side = world()
    assert "it is empty" in refused(InvalidArgument, side, "")
    assert "not told apart" in refused(InvalidArgument, side, "other")
    assert "known are clicks, grpc" in refused(NotFound, side, "cliks")
    assert "not in the past" in refused(InvalidArgument, side, since_ms=side.ms + 60_000)
    assert "one of them" in refused(InvalidArgument, side, since_ms=side.ms - 1, kept_only=True)
    with pytest.raises(NotFound):
        ask(side, name="experiments/nobody")
    assert "event_retention" in refused(NotAllowed, world("0s"))


def test_a_release_ends_it_and_keeps_what_was_removed() -> None:
    side = world()
    ask(side)
    side.writer.sync(side.stored)
    side.settle()
    side.ms += 1000
    request = pb.ReleaseSourceRequest(name=f"experiments/{NAME}", source="clicks", reason="mended")
    answer = service(side).release(request)
    assert answer.experiment.quarantines[0].until_time.ToMilliseconds() == side.ms
    side.stored = side.load()
    side.writer.sync(side.stored)
    side.settle()
    side.send([Sent(CLICKS, 2, 1, 0, ONE)])
    side.learn()
    assert counts(side, "clicks") == RewardCounts(applied=1, rejected=3)
    with pytest.raises(NotAllowed, match="clicks is not in quarantine; no source is"):
        service(side).release(request)
    ask(side)
    side.writer.sync(side.stored)
    side.settle()
    assert counts(side, "clicks") == RewardCounts(rejected=4)


def test_an_experiment_keeps_so_many_removals() -> None:
    side = world(sent=1)
    for _ in range(64):
        ask(side)
        service(side).release(pb.ReleaseSourceRequest(name=f"experiments/{NAME}", source="clicks"))
    assert "the most" in refused(NotAllowed, side)


def test_one_sender_of_the_reward_service_is_removed_and_the_others_stay() -> None:
    side = world()
    records = [side._record(Sent(GRPC, 1, number, 1, ONE)) for number in range(3)]
    for source, record in zip((b"grpc/bot", b"grpc/bot", b"grpc/billing"), records, strict=True):
        side.store.append([Append(NAME, 7, record.kind, record.pack(), source=source)])
    side.learn()
    assert (counts(side, "grpc/bot").applied, counts(side, "grpc/billing").applied) == (2, 1)
    assert ask(side, "grpc/bot").counted == 2
    side.writer.sync(side.stored)
    side.settle()
    assert counts(side, "grpc/bot") == RewardCounts(rejected=2)
    assert counts(side, "grpc/billing").applied == 1
    assert counts(side, "grpc").applied == 1
