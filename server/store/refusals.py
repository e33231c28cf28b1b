"""What both stores refuse, and in which words."""

from __future__ import annotations

from collections.abc import Sequence

from bandit.errors import AlreadyExists, BanditError, Stale, StoreUnavailable
from server.store.base import Commit

# A change not executed this long after it was said to come is given up; then nobody can be surprised by it.
CHANGE_WITHIN_MS = 1500
HIGHEST_NUMBER = (1 << 32) - 1
KEY_BYTES = 32


def refusal(commit: Commit, word: str, values: Sequence[str]) -> BanditError:
    """Why a commit changed nothing, as an error."""
    name = commit.experiment.name
    stored = values[0] if values else ""
    if word == "exists":
        return AlreadyExists(
            f"{name}: an experiment of that name exists; take another name, or delete it first", name=name
        )
    if word == "late":
        return _late(name)
    if word == "lease" and commit.fence is not None:
        return Stale(
            f"{name}: {commit.fence.owner} no longer holds the lease with token {commit.fence.token}; acquire it again",
            reason="LEASE_LOST",
            name=name,
            owner=commit.fence.owner,
            token=commit.fence.token,
        )
    meant = {
        "gone": "it was deleted",
        "generation": f"it is at generation {stored}, not {commit.expected_generation}",
        "uid": f"it was deleted and made again, as number {stored}",
        "allocation": f"allocation {stored} is out already, {commit.allocation.number} would be a step back",
        "audit": f"the audit stands at record {stored}, which this one does not continue",
    }
    return Stale(f"{name}: {meant.get(word, word)}; read it again, then retry", name=name, stored=stored)


def deletion_refusal(name: str, expected: int, stored: int | None) -> BanditError:
    """Why a delete changed nothing; ``stored`` None when it took too long."""
    if stored is None:
        return _late(name)
    seen = f"it is at generation {stored}, not {expected}" if stored else "there is none of that name"
    return Stale(f"{name}: {seen}; read it again, then retry", name=name, stored=stored)


def _late(name: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"{name}: the change reached the store more than {CHANGE_WITHIN_MS} ms after it was begun and was not made; "
        "try again",
        name=name,
    )


def check_lease(owner: str, ttl_ms: int) -> None:
    """Raises ValueError for a lease of nobody or of no time."""
    if not owner or ttl_ms < 1:
        raise ValueError(f"a lease needs an owner and at least 1 ms, not {owner!r} and {ttl_ms}")
