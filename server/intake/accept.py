"""Whether a reward may count, decided the same way for every door it comes through; it appends and counts nothing."""

from __future__ import annotations

import hmac

from bandit.errors import InvalidArgument, Rejected, StoreUnavailable
from bandit.ids import MAX_UNIT_BYTES, parse_experiment
from bandit.reward import (
    Amendment,
    RewardEvent,
    RewardRecord,
    accept_with_token,
    accept_without_token,
    identity_of,
)
from bandit.rollout.state import Experiment
from bandit.token import Claims, verify
from server.snapshot import Entry, Snapshot, SnapshotKeeper

MAX_TEXT_BYTES = 512
BEHIND_MS = 5000
"""A token issued so much before the snapshot was read is of an experiment that the snapshot has, or that is gone."""


def accept(
    keeper: SnapshotKeeper, snapshot: Snapshot, token: bytes, experiment: str, event: RewardEvent, now_ms: int
) -> tuple[Entry, RewardRecord | Amendment]:
    """The experiment and the record of a reward; ``experiment`` names it where there is no ``token``.

    Raises Rejected, and StoreUnavailable when our snapshot is too old to tell.
    """
    entry, claims = join(keeper, snapshot, token, experiment, event)
    return entry, judge(entry, claims, event, now_ms)


def join(
    keeper: SnapshotKeeper, snapshot: Snapshot, token: bytes, experiment: str, event: RewardEvent
) -> tuple[Entry, Claims | None]:
    """The experiment, and what the token says.

    Raises as :func:`accept`, with reasons TOO_LONG, BAD_TOKEN, NO_TOKEN, UNKNOWN_EXPERIMENT; SNAPSHOT_BEHIND.
    """
    _check_lengths(event, experiment)
    if not token:
        return _named(snapshot, experiment), None
    claims = verify(snapshot.keys, token)
    found = snapshot.by_uid.get(claims.experiment_uid)
    behind = found is not None and claims.epoch > found.experiment.epoch
    if found is None or behind:
        gone = keeper.name_of(claims.experiment_uid, float("inf")) == ""
        if not gone and (behind or claims.issued_ms > snapshot.read_ms - BEHIND_MS):
            raise StoreUnavailable(
                "this server has not read the experiment of a fresh token yet; send all again in a second",
                reason="SNAPSHOT_BEHIND",
            )
        raise Rejected("the experiment of this token was deleted", reason="UNKNOWN_EXPERIMENT")
    return found, claims


def judge(entry: Entry, claims: Claims | None, event: RewardEvent, now_ms: int) -> RewardRecord | Amendment:
    """The record of a reward whose experiment is known. Raises Rejected (see ``bandit.reward``)."""
    if claims is None:
        return accept_without_token(entry.experiment, foreign_key(entry.experiment), event, now_ms)
    return accept_with_token(entry.experiment, claims, event, now_ms)


def ledger_of(entry: Entry, claims: Claims | None, event: RewardEvent) -> str:
    """Name of the ledger that counts a reward, also one that is refused."""
    if entry.experiment.spec.partitions == 1:
        return entry.table.name
    if claims is not None:
        return entry.ledger(claims.issuer, claims.number)
    return entry.ledger(0, identity_of(entry.experiment, foreign_key(entry.experiment), event))


def foreign_key(experiment: Experiment) -> bytes:
    """The key that hashes ids which are not ours, 32 bytes.

    It comes from the experiment's secret salt, which every server reads and which lives as long as the experiment:
    token keys come and go, and with them the same event would get another number and count twice.
    """
    return hmac.digest(experiment.salt, b"banditd ids of rewards without a token", "sha256")


def _named(snapshot: Snapshot, resource: str) -> Entry:
    try:
        entry = snapshot.entries.get(parse_experiment(resource, "experiment"))
    except InvalidArgument as error:
        raise Rejected(f"no token, and {error}", reason="NO_TOKEN") from None
    if entry is None:
        raise Rejected(
            f"there is no {resource}; if it was created within the last second, send it again",
            reason="UNKNOWN_EXPERIMENT",
        )
    return entry


def _check_lengths(event: RewardEvent, experiment: str) -> None:
    if len(event.unit.encode()) > MAX_UNIT_BYTES:
        raise Rejected(f"a unit has at most {MAX_UNIT_BYTES} bytes", reason="TOO_LONG")
    for name, text in (
        ("metric", event.metric),
        ("event_id", event.event_id),
        ("experiment", experiment),
        ("arm", event.arm),
    ):
        if len(text.encode()) > MAX_TEXT_BYTES:
            raise Rejected(f"{name} is longer than {MAX_TEXT_BYTES} bytes", reason="TOO_LONG")
