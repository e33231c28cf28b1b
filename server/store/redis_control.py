"""Experiments, audit, leases and numbers on a Redis or Valkey server.

A commit touches two slots: the experiment's, then the registry that servers poll. The registry is told first that a
change is about to happen; when its maker dies in between, whoever polls the version next announces it in its place.
Rejected: telling it only afterwards (a crash in between hides the change until the next one), and telling it before
and after (a poll in between reads the old state, and the crash then hides the new one all the same).
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from bandit.errors import BanditError, CorruptStored, Overloaded, StoreUnavailable
from bandit.rollout.audit import GENESIS, AuditRecord
from bandit.rollout.state import Allocation
from bandit.token import KeyRing
from server.store import codec, scripts
from server.store.base import Commit, Durability, Fence, Outcome, Request, Stored, Subscription
from server.store.keys import REQUEST_TTL_MS, SECURED_MS, ExperimentKeys, Keys, request_digest
from server.store.link import Link
from server.store.packed import reading, whole
from server.store.redis_partitions import buckets_of, clear_strangers, may_be_several, plant_all
from server.store.refusals import (
    CHANGE_WITHIN_MS,
    HIGHEST_NUMBER,
    KEY_BYTES,
    check_lease,
    deletion_refusal,
    refusal,
)

# After this long the one who began it has either told everyone or is gone.
GRACE_MS = 2500
_BATCH = 500
_TRIES = 5
_HEAD = ("experiment", "allocation", "generation", "audit_sequence", "audit_hash")


class RedisControl:
    """The part of a store that holds experiments."""

    def __init__(self, link: Link, keys: Keys) -> None:
        self._link = link
        self._keys = keys

    def version(self) -> int:
        """See ControlStore."""
        return scripts.version(self._link, self._keys, GRACE_MS)

    def names(self) -> list[str]:
        """See ControlStore."""
        return sorted(self.orders())

    def orders(self) -> dict[str, tuple[int, int]]:
        """See ControlStore. One command an experiment, 500 of them in a round trip."""
        listed = [name.decode("utf-8", "replace") for name in self._link.call("HKEYS", self._keys.names)]
        # A create that was refused, or died, leaves its name listed; only the experiment itself says that it exists.
        found: dict[str, tuple[int, int]] = {}
        for start in range(0, len(listed), _BATCH):
            part = listed[start : start + _BATCH]
            heads = [self._keys.of(name).head for name in part]
            answers = self._link.batch([("HMGET", head, "uid", "generation") for head in heads])
            lost: list[tuple[str, str]] = []
            for name, head, answer in zip(part, heads, answers, strict=True):
                if isinstance(answer, StoreUnavailable):
                    raise answer
                if isinstance(answer, BanditError) or answer == [None, None]:
                    lost.append((name, head))
                else:
                    found[name] = _number(answer[0]), _number(answer[1])
            there = self._link.batch([("EXISTS", head) for _, head in lost])
            for (name, _), answer in zip(lost, there, strict=True):
                if isinstance(answer, BanditError):
                    raise answer
                if answer:
                    found[name] = 0, 0
        return found

    def load(self, name: str) -> Stored | None:
        """See ControlStore."""
        keys = self._keys.of(name)
        return _stored(name, keys, self._link.call("HMGET", keys.head, *_HEAD))

    def load_many(self, names: Sequence[str]) -> dict[str, Stored | Exception]:
        """See ControlStore."""
        found: dict[str, Stored | Exception] = {}
        for start in range(0, len(names), _BATCH):
            part = [(name, self._keys.of(name)) for name in names[start : start + _BATCH]]
            answers = self._link.batch([("HMGET", keys.head, *_HEAD) for _, keys in part])
            for (name, keys), answer in zip(part, answers, strict=True):
                try:
                    if isinstance(answer, StoreUnavailable):
                        raise answer
                    if isinstance(answer, BanditError):
                        found[name] = answer
                    elif (stored := _stored(name, keys, answer)) is not None:
                        found[name] = stored
                except CorruptStored as error:
                    found[name] = error
        return found

    def commit(self, commit: Commit) -> int:
        """See ControlStore."""
        experiment, allocation, audit = commit.experiment, commit.allocation, commit.audit
        keys = self._keys.of(experiment.name)
        creates = commit.expected_generation == 0
        documents = codec.dump_experiment(experiment), codec.dump_allocation(allocation)
        if problem := codec.misfit(experiment, allocation):
            raise ValueError(f"{experiment.name}: {problem}")
        member = _member(experiment.name)
        begun_ms = scripts.prepare(self._link, self._keys, member, experiment.name, experiment.uid)
        request = commit.remembered
        call = scripts.CommitCall(
            expected_generation=commit.expected_generation,
            uid=experiment.uid,
            experiment=documents[0],
            allocation=documents[1],
            allocation_number=allocation.number,
            audit=codec.dump_audit(audit) if audit else b"",
            audit_sequence=audit.sequence if audit else 0,
            audit_hash=audit.hash if audit else "",
            owner=commit.fence.owner if commit.fence else "",
            token=commit.fence.token if commit.fence else None,
            request=request.digest if request else b"",
            outcome=_packed(request.outcome) if request else b"",
            not_after_ms=begun_ms + CHANGE_WITHIN_MS,
            remember_ms=REQUEST_TTL_MS,
        )
        leftovers = keys.all(*self._buckets(keys))[6:] if creates else []
        word, *values = scripts.commit(self._link, keys, call, leftovers)
        if creates and word == b"ok" and experiment.spec.partitions > 1:
            plant_all(self._link, self._keys, experiment.name, experiment.uid, experiment.spec.partitions)
        self._announce(member, experiment.name, changed=word == b"ok")
        if word == b"ok":
            return int(values[0])
        raise refusal(commit, word.decode(), [value.decode("utf-8", "replace") for value in values])

    def allocations(self, name: str, after: int) -> list[Allocation]:
        """See ControlStore."""
        key = self._keys.of(name).allocations
        kept = self._link.call("ZRANGEBYSCORE", key, f"({after}", "+inf")
        return [codec.load_allocation(key, raw) for raw in kept]

    def delete(
        self, name: str, expected_generation: int, last: AuditRecord | None = None, request_id: str = ""
    ) -> None:
        """See ControlStore."""
        keys = self._keys.of(name)
        record = codec.dump_audit(last) if last else b""
        request = request_digest(request_id) if request_id else b""
        member = _member(name)
        several = may_be_several(self._link, keys)
        not_after_ms = scripts.prepare(self._link, self._keys, member, name, None) + CHANGE_WITHIN_MS
        for _ in range(_TRIES):
            word, *values = scripts.delete(
                self._link,
                keys,
                expected_generation,
                not_after_ms,
                self._buckets(keys),
                record,
                request,
            )
            if word != b"buckets":
                break
        ok = word == b"ok"
        self._announce(member, name, changed=ok, gone_uid=values[0] if ok else b"")
        if not ok:
            raise deletion_refusal(name, expected_generation, int(values[0]) if values else None)
        if several:
            self.clear_partitions(name)

    def clear_partitions(self, name: str) -> None:
        """See ControlStore."""
        clear_strangers(self._link, self._keys, name)

    def outcome_of(self, name: str, request_id: str) -> Outcome | None:
        """See ControlStore."""
        keys, digest = self._keys.of(name), request_digest(request_id)
        answers = self._link.batch(
            [("HGET", keys.requests, digest), ("ZSCORE", keys.requested, digest), ("TIME",)],
            key=keys.requests,
        )
        for answer in answers:
            if isinstance(answer, BanditError):
                raise answer
        packed, at, (seconds, micros) = answers
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        if packed is None or at is None or float(at) + REQUEST_TTL_MS <= now_ms:
            return None
        return _outcome(keys, packed)

    def requests(self, name: str, limit: int) -> list[Request]:
        """See ControlStore."""
        keys = self._keys.of(name)
        digests = self._link.call("ZREVRANGE", keys.requested, 0, limit - 1)
        packed = self._link.call("HMGET", keys.requests, *digests) if digests else []
        return [Request(each, _outcome(keys, raw)) for each, raw in zip(digests, packed, strict=True) if raw]

    def audit(self, name: str, before: int | None, limit: int) -> list[AuditRecord]:
        """See ControlStore."""
        return self._audit(self._keys.of(name).audit, before, limit)

    def past_audit(self, name: str, before: int | None, limit: int) -> list[AuditRecord]:
        """See ControlStore."""
        return self._audit(self._keys.of(name).past, before, limit)

    def deleted_by(self, name: str, request_id: str) -> bool:
        """See ControlStore."""
        return bool(self._link.call("GET", self._keys.of(name).deletion) == request_digest(request_id))

    def _audit(self, key: str, before: int | None, limit: int) -> list[AuditRecord]:
        newest = int(self._link.call("LLEN", key))
        if before is not None:
            newest = min(newest, before - 1)
        if limit <= 0 or newest <= 0:
            return []
        rows = self._link.call("LRANGE", key, max(newest - limit, 0), newest - 1)
        return [codec.load_audit(key, raw) for raw in reversed(rows)]

    def next_uid(self) -> int:
        """See ControlStore."""
        return self._reserve("experiment", 1)

    def reserve_issuers(self, count: int) -> int:
        """See ControlStore."""
        return self._reserve("issuer", count)

    def token_keys(self) -> KeyRing:
        """See ControlStore."""
        raw = self._link.call("GET", self._keys.tokens)
        if raw is None:
            ring = KeyRing({1: secrets.token_bytes(KEY_BYTES)}, 1)
            self._link.call("SET", self._keys.tokens, codec.dump_key_ring(ring), "NX")
            raw = self._link.call("GET", self._keys.tokens)
        if raw is None:
            raise StoreUnavailable(f"the store at {self._link.address} loses what it is given; try again")
        return codec.load_key_ring(self._keys.tokens, raw)

    def acquire(self, name: str, owner: str, ttl_ms: int) -> Fence | None:
        """See ControlStore."""
        check_lease(owner, ttl_ms)
        token = scripts.acquire(self._link, self._keys.of(name), owner, ttl_ms)
        return None if token is None else Fence(owner, token)

    def release(self, name: str, fence: Fence) -> None:
        """See ControlStore."""
        scripts.release(self._link, self._keys.of(name), fence.owner, fence.token)

    def beat(self, owner: str, ttl_ms: int) -> None:
        """See ControlStore."""
        check_lease(owner, ttl_ms)
        scripts.beat(self._link, self._keys, owner, ttl_ms)

    def learner_alive(self) -> bool:
        """See ControlStore."""
        return bool(self._link.call("EXISTS", self._keys.beat))

    def put_status(self, name: str, status: bytes, fence: Fence) -> bool:
        """See ControlStore."""
        return scripts.put_status(self._link, self._keys.of(name), fence.owner, fence.token, status)

    def status(self, name: str) -> bytes | None:
        """See ControlStore."""
        found: bytes | None = self._link.call("GET", self._keys.of(name).status)
        return found

    def put_report(self, name: str, report: bytes, fence: Fence) -> bool:
        """See ControlStore."""
        return scripts.put_report(self._link, self._keys.of(name), fence.owner, fence.token, report)

    def report(self, name: str) -> bytes | None:
        """See ControlStore."""
        found: bytes | None = self._link.call("GET", self._keys.of(name).report)
        return found

    def subscribe(self) -> Subscription:
        """See ControlStore."""
        return _Listener(self._link, self._keys.changes)

    def secured(self, name: str) -> Durability:
        """See ControlStore."""
        # A write on this connection comes after all others; waiting for it waits for them.
        mark = [("SET", self._keys.of(name).secured, 1, "PX", SECURED_MS)]
        for wanted in (Durability.FSYNCED, Durability.REPLICATED):
            if self._link.batch_kept(mark, wanted)[1] is wanted:
                return wanted
        return Durability.MEMORY

    def history(self) -> tuple[str, ...]:
        """See ControlStore."""
        told = []
        for node in self._link.nodes():
            server, replication = node.call("INFO", "server"), node.call("INFO", "replication")
            told.append(f"{server.get('run_id')} {replication.get('master_replid')}")
        return tuple(sorted(told))

    def now_ms(self) -> int:
        """See ControlStore."""
        seconds, micros = self._link.call("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    def _reserve(self, kind: str, count: int) -> int:
        if count < 1:
            raise ValueError(f"{count} numbers were asked for; ask for at least 1")
        first = scripts.reserve(self._link, self._keys, kind, count, HIGHEST_NUMBER)
        if first is None:
            raise Overloaded(f"no {kind} numbers are left below {HIGHEST_NUMBER}; begin with an empty store")
        return first

    def _buckets(self, keys: ExperimentKeys) -> tuple[list[str], list[str]]:
        """Of the ledger and of the trailing one."""
        return buckets_of(self._link, keys), buckets_of(self._link, keys.trailing())

    def _announce(self, member: str, name: str, *, changed: bool, gone_uid: bytes = b"") -> None:
        try:
            scripts.announce(self._link, self._keys, member, name, changed=changed, gone_uid=gone_uid)
        except (StoreUnavailable, CorruptStored):
            # The change is made and must not be reported as unknown. version.lua announces it in a moment, or, when
            # the registry is broken, says so to everyone who polls it.
            return


class _Listener:
    """Names that arrive on the channel of changes."""

    def __init__(self, link: Link, channel: str) -> None:
        self._link = link
        self._listener = link.listen(channel)

    def next(self, timeout_s: float) -> str | None:
        """See Subscription."""
        name = self._link.heard(self._listener, timeout_s)
        return None if name is None else name.decode("utf-8", "replace")

    def close(self) -> None:
        """See Subscription."""
        self._listener.close()


def _stored(name: str, keys: ExperimentKeys, head: Sequence[bytes | None]) -> Stored | None:
    experiment_raw, allocation_raw, generation_raw, audit_sequence, audit_hash = head
    if experiment_raw is None and allocation_raw is None and generation_raw is None:
        return None
    generation = _number(generation_raw)
    try:
        with reading(keys.head):
            if experiment_raw is None or allocation_raw is None or not generation:
                raise ValueError("a part of the head is missing")
            experiment = codec.load_experiment(f"{keys.head}[experiment]", experiment_raw)
            allocation = codec.load_allocation(f"{keys.head}[allocation]", allocation_raw)
            if experiment.name != name:
                raise ValueError(f"holds the experiment {experiment.name}")
            if problem := codec.misfit(experiment, allocation):
                raise ValueError(problem)
            sequence = whole(audit_sequence or b"0")
            hash_ = audit_hash.decode() if audit_hash else GENESIS
            return Stored(experiment, allocation, generation, sequence, hash_)
    except CorruptStored as error:
        error.metadata["generation"] = str(generation)
        raise


def _number(raw: bytes | None) -> int:
    """A uid or generation, 0 when it is lost."""
    try:
        return whole(raw or b"0")
    except ValueError:
        return 0


def _member(name: str) -> str:
    return f"{name}:{secrets.token_hex(8)}"


def _packed(outcome: Outcome) -> bytes:
    """As commit.lua keeps it: the revision alone, or with a space and the answer behind it."""
    return b"%d %b" % outcome if outcome.answer else b"%d" % outcome.revision


def _outcome(keys: ExperimentKeys, packed: bytes) -> Outcome:
    """Inverse of :func:`_packed`."""
    with reading(keys.requests):
        revision, _, answer = packed.partition(b" ")
        return Outcome(whole(revision), answer)
