"""One typed call for each Lua file; what the numbers and words mean is told at the top of that file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bandit.errors import BanditError
from bandit.log import EXPOSURES
from server.store.base import Durability, Shipment
from server.store.keys import PAST_TTL_MS, REQUEST_TTL_MS, ExperimentKeys, Keys
from server.store.link import Argument, Link, Script
from server.store.writes import FoldCall

_PREPARE = Script("prepare")
_ANNOUNCE = Script("announce")
_VERSION = Script("version")
_COMMIT = Script("commit")
_DELETE = Script("delete")
_LEASE = Script("lease")
_STATUS = Script("status")
_BEAT = Script("beat")
_RESERVE = Script("reserve")
_FOLD = Script("fold")
_BEHIND = Script("behind")
_SHIP = Script("ship")
_FEED = Script("feed")
_UNBURY = Script("unbury")
_PLANT = Script("plant")
_FORGET = Script("forget")


@dataclass(frozen=True, slots=True)
class CommitCall:
    """Arguments of commit.lua."""

    expected_generation: int
    uid: int
    experiment: bytes
    allocation: bytes
    allocation_number: int
    audit: bytes
    audit_sequence: int
    audit_hash: str
    owner: str
    token: int | None
    request: bytes
    outcome: bytes
    not_after_ms: int
    remember_ms: int


@dataclass(frozen=True, slots=True)
class FeedCall:
    """Arguments of feed.lua: uid or word, moves (field, text before, text after), counts, entries (place, fields)."""

    uid: int | str
    moves: Sequence[tuple[str, str, str]]
    counts: Sequence[tuple[str, int]]
    entries: Sequence[tuple[str, Sequence[Argument]]]
    most: int = 0
    dropped: str = ""


def prepare(link: Link, keys: Keys, member: str, name: str, uid: int | None) -> int:
    """Announce that a change is about to happen; the store's time, Unix ms."""
    answer = link.run(_PREPARE, [keys.pending, keys.names], [member, name, "" if uid is None else uid])
    return int(answer)


def announce(link: Link, keys: Keys, member: str, name: str, *, changed: bool, gone_uid: bytes = b"") -> None:
    """Tell every server of the change, or take the mark back."""
    link.run(
        _ANNOUNCE,
        [keys.version, keys.pending, keys.names],
        [member, name, int(changed), gone_uid, keys.changes],
    )


def version(link: Link, keys: Keys, grace_ms: int) -> int:
    """Number of the last change."""
    return int(link.run(_VERSION, [keys.version, keys.pending], [grace_ms, keys.changes]))


def commit(link: Link, keys: ExperimentKeys, call: CommitCall, leftovers: Sequence[str]) -> list[bytes]:
    """Word and values of the outcome; ``leftovers``: keys to clear on create."""
    owned = [keys.head, keys.allocations, keys.audit, keys.requests, keys.requested, keys.lease]
    answer: list[bytes] = link.run(
        _COMMIT,
        owned + list(leftovers),
        [
            call.expected_generation,
            call.uid,
            call.experiment,
            call.allocation,
            call.allocation_number,
            call.audit,
            call.audit_sequence or "",
            call.audit_hash,
            call.owner,
            "" if call.token is None else call.token,
            call.request,
            call.outcome,
            call.not_after_ms,
            call.remember_ms,
        ],
    )
    return answer


def delete(
    link: Link,
    keys: ExperimentKeys,
    generation: int,
    not_after_ms: int,
    buckets: tuple[Sequence[str], Sequence[str]],
    record: bytes,
    request: bytes,
) -> list[bytes]:
    """Word and value of the outcome; ``buckets``: the ledger's and the trailing one's."""
    named = [keys.head, keys.foreign, keys.past, keys.deletion, keys.audit, keys.trailing().foreign]
    rest = [key for key in keys.all(*buckets) if key not in named]
    limits = [PAST_TTL_MS, REQUEST_TTL_MS]
    names: list[Argument] = [len(buckets[0]), *buckets[0], *buckets[1]]
    answer: list[bytes] = link.run(
        _DELETE, [*named, *rest], [generation, not_after_ms, record, request, *limits, *names]
    )
    return answer


def plant(
    link: Link, keys: ExperimentKeys, uid: int | str, buckets: Sequence[str], *, clear: bool = False
) -> str:
    """Word of the outcome; with ``clear`` nothing is left, and ``uid`` must be the one that the head has."""
    named = [keys.head, keys.log, keys.foreign]
    rest = [key for key in keys.all(buckets) if key not in named]
    answer: bytes = link.run(_PLANT, [*named, *rest], ["clear" if clear else "plant", uid, *buckets])
    return answer.decode()


def forget(link: Link, keys: ExperimentKeys, uid: int, buckets: Sequence[str]) -> str:
    """Word of the outcome."""
    named = [keys.head, keys.foreign, keys.writer, keys.periods, keys.pages, keys.exposed, keys.folded]
    named += [keys.bucket(bucket) for bucket in buckets]
    answer: bytes = link.run(_FORGET, named, [uid, keys.fence, *buckets])
    return answer.decode()


def acquire(link: Link, keys: ExperimentKeys, owner: str, ttl_ms: int) -> int | None:
    """The fencing token, or None."""
    answer = link.run(_LEASE, [keys.head, keys.lease], ["acquire", owner, ttl_ms])
    return int(answer) if answer else None


def release(link: Link, keys: ExperimentKeys, owner: str, token: int) -> None:
    """Give the lease up."""
    link.run(_LEASE, [keys.head, keys.lease], ["release", owner, token])


def put_status(link: Link, keys: ExperimentKeys, owner: str, token: int, status: bytes) -> bool:
    """True when the lease was held."""
    return bool(link.run(_STATUS, [keys.lease, keys.status], [owner, token, status]))


def put_report(link: Link, keys: ExperimentKeys, owner: str, token: int, report: bytes) -> bool:
    """True when the lease was held."""
    return bool(link.run(_STATUS, [keys.lease, keys.report], [owner, token, report]))


def beat(link: Link, keys: Keys, owner: str, ttl_ms: int) -> None:
    """Say that a learner is alive."""
    link.run(_BEAT, [keys.beat], [owner, ttl_ms])


def reserve(link: Link, keys: Keys, kind: str, count: int, highest: int) -> int | None:
    """First of the numbers, or None when none are left."""
    answer = link.run_kept(_RESERVE, [keys.numbers], [kind, count, highest])
    return int(answer) if answer else None


def fold(link: Link, keys: ExperimentKeys, call: FoldCall) -> str:
    """Word of the outcome."""
    parts = (
        call.set_periods,
        call.drop_periods,
        call.set_pages,
        call.drop_pages,
        call.exposed,
        call.chunks,
        call.drop_buckets,
        call.replies,
    )
    arguments: list[Argument] = [
        call.uid,
        call.expected_sequence,
        call.expected_sequence + 1,
        call.writer,
        call.folded,
        call.keep_from,
        call.drop_allocations,
        call.reply_ttl_s,
        keys.fence,
        *map(len, parts),
    ]
    arguments += [each for pair in call.set_periods for each in pair]
    arguments += call.drop_periods
    arguments += [each for pair in call.set_pages for each in pair]
    arguments += call.drop_pages
    arguments += [each for pair in call.exposed for each in pair]
    arguments += [each for chunk in call.chunks for each in chunk]
    arguments += call.drop_buckets
    arguments += [outcomes for _, outcomes in call.replies]
    names = [
        keys.head,
        keys.log,
        keys.allocations,
        keys.writer,
        keys.periods,
        keys.pages,
        keys.exposed,
        keys.foreign,
        keys.folded,
        *(keys.bucket(bucket) for bucket, _, _ in call.chunks),
        *(keys.bucket(bucket) for bucket in call.drop_buckets),
        *(keys.reply(reply) for reply, _ in call.replies),
    ]
    answer: bytes = link.run(_FOLD, names, arguments)
    return answer.decode()


def ship(link: Link, sent: Sequence[tuple[ExperimentKeys, Shipment]]) -> list[Any]:
    """Number up to which each log has the exposures now, None for no such experiment, or its error."""
    calls: list[tuple[list[str], list[Argument]]] = [
        (
            [keys.shipped, keys.log, keys.head],
            [each.uid, each.issuer, each.first, each.following, int(each.gap), EXPOSURES, each.payload],
        )
        for keys, each in sent
    ]
    return [
        answer if isinstance(answer, BanditError) else int(answer) if answer else None
        for answer in link.run_many(_SHIP, calls)
    ]


def behind(link: Link, keys: ExperimentKeys, offset: str, most: int) -> tuple[int, str]:
    """Entries counted after the offset, at most ``most``, and the id of the last of them."""
    count, last = link.run(_BEHIND, [keys.log], [offset, most])
    return int(count), last.decode()


def feed(link: Link, keys: Sequence[str], call: FeedCall) -> list[bytes]:
    """Word and values of the outcome; ``keys`` as feed.lua has them."""
    answer: list[bytes] = link.run(_FEED, keys, _feed_arguments(call))
    return answer


def feed_kept(
    link: Link, keys: Sequence[str], call: FeedCall, wanted: Durability
) -> tuple[list[bytes], Durability]:
    """As :func:`feed`, then waits; how safe it is."""
    answers, safe = link.run_many_kept(_FEED, [(keys, _feed_arguments(call))], wanted)
    if isinstance(answers[0], BanditError):
        raise answers[0]
    return answers[0], safe


def _feed_arguments(call: FeedCall) -> list[Argument]:
    arguments: list[Argument] = [call.uid, call.most, call.dropped]
    arguments += [len(call.moves), len(call.counts), len(call.entries)]
    arguments += [each for move in call.moves for each in move]
    arguments += [each for count in call.counts for each in count]
    for place, fields in call.entries:
        arguments += [place, len(fields), *fields]
    return arguments


def unbury(link: Link, keys: Sequence[str], id_: str, fields: Sequence[str]) -> bool:
    """True when the letter was there."""
    return bool(link.run(_UNBURY, keys, [id_, *fields]))
