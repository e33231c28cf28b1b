"""Slots of the partitions of an experiment beyond its own: made ready for it, and cleared when it is gone.

The experiment's own slot decides who owns the name: it is written first by a create and by a delete, and what a crash
in between leaves in other slots is made or cleared by whoever comes next: the learner, a repeated delete, the next
experiment of the name. Rejected: to prepare the other slots before the create is decided, for a create that is then
refused would have cleared those of the experiment that is there.
"""

from __future__ import annotations

from collections.abc import Sequence

from bandit.errors import BanditError, CorruptStored, StoreUnavailable
from bandit.ids import ledger_name, ledger_names
from bandit.spec.model import MAX_PARTITIONS
from server.store import codec, scripts
from server.store.keys import ExperimentKeys, Keys
from server.store.link import Link

_TRIES = 5


def begin(link: Link, keys: Keys, ledger: str, uid: int) -> bool:
    """See LedgerStore."""
    return _planted(link, keys.of(ledger), str(uid), clear=False) == "ok"


def plant_all(link: Link, keys: Keys, name: str, uid: int, partitions: int) -> None:
    """Make the slots of a new experiment ready before anybody is told of it; else the learner does when it comes."""
    for ledger in ledger_names(name, partitions)[1:]:
        begin(link, keys, ledger, uid)
    # Afterwards: what an older one left, and what was just made if somebody deleted the new one meanwhile.
    clear_strangers(link, keys, name)


def may_be_several(link: Link, keys: ExperimentKeys) -> bool:
    """Has an experiment partitions? Else no other slot may hold its deletion up, for that server may be away."""
    try:
        raw = link.call("HGET", keys.head, "experiment")
        return raw is None or codec.load_experiment(keys.head, raw).spec.partitions > 1
    except CorruptStored:
        return True


def clear_strangers(link: Link, keys: Keys, name: str) -> None:
    """Clear every partition of the name that is not of the experiment which its own slot has now; all, if it has none.

    Their numbers are read before the owner's, so one that is planted meanwhile is left alone. Raises StoreUnavailable.
    """
    parts = [keys.of(ledger_name(name, partition)) for partition in range(1, MAX_PARTITIONS)]
    found = _answers(link.batch([("HGET", part.head, "uid") for part in parts]))
    there = _answers(
        link.batch([("EXISTS", part.head, part.log, part.writer, part.fed, part.foreign) for part in parts])
    )
    (owner,) = _answers(link.batch([("HGET", keys.of(name).head, "uid")]))
    for part, uid, kept in zip(parts, found, there, strict=True):
        if kept and (uid is None or uid != owner):
            _planted(link, part, (uid or b"").decode("utf-8", "surrogateescape"), clear=True)


def buckets_of(link: Link, keys: ExperimentKeys) -> list[str]:
    """Names of the lists of foreign ids; none when their index is no index."""
    try:
        return [name.decode("utf-8", "surrogateescape") for name in link.call("HKEYS", keys.foreign)]
    except CorruptStored:
        return []


def _planted(link: Link, keys: ExperimentKeys, uid: str, *, clear: bool) -> str:
    for _ in range(_TRIES):
        word = scripts.plant(link, keys, uid, buckets_of(link, keys), clear=clear)
        if word != "buckets":
            break
    return word


def _answers(answers: Sequence[object]) -> list[bytes | None]:
    """As they are; a head of another type has no uid. Raises StoreUnavailable."""
    found: list[bytes | None] = []
    for answer in answers:
        if isinstance(answer, StoreUnavailable):
            raise answer
        found.append(None if isinstance(answer, BanditError) else answer)  # type: ignore[arg-type]
    return found
