"""What a learner knows of an experiment's commits, to put back those that a failover lost; it judges nothing.

A store that was set back by seconds (a replica took over that had not heard the last writes, the end of the file was
cut) has an ancestor of what we know: the lost commits are made once more, with the same documents and the same audit
records, so the chain, the rollbacks and the numbers of allocations are as everybody saw them; so are request ids, and
a command that is sent again finds that it was done. A store that is no ancestor (an old copy, or somebody committed
meanwhile) is another past: nothing is put back, and nobody learns from it until an operator restores it or accepts it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from bandit.errors import NotAllowed
from bandit.rollout.audit import AuditRecord
from server.store.base import Commit, ControlStore, Fence, Request, Stored

KEPT = (
    256  # commits and records remembered; a failover loses seconds, an experiment commits at most each tick
)


class Past:
    """The newest commits of one experiment as they were seen, oldest first.

    ``sequences``: the writers' numbers of folds when last seen, by ledger.
    """

    def __init__(self, store: ControlStore) -> None:
        self._store = store
        self._seen: deque[Stored] = deque(maxlen=KEPT)
        self._records: dict[int, AuditRecord] = {}
        self._requests: dict[int, Request] = {}
        self.sequences: dict[str, int] = {}

    @property
    def newest(self) -> Stored | None:
        """The newest commit that was seen."""
        return self._seen[-1] if self._seen else None

    def saw(self, stored: Stored) -> None:
        """Remember a commit, with the audit records that came since the last one. Raises StoreUnavailable."""
        newest = self.newest
        if newest is not None and newest.experiment.uid != stored.experiment.uid:
            self._seen.clear()
            self._records.clear()
            self._requests.clear()
            self.sequences = {}
            newest = None
        if newest is not None:
            if stored.generation <= newest.generation:
                return
            missing = stored.audit_sequence - newest.audit_sequence
            if missing > 0:
                found = self._store.audit(
                    stored.experiment.name, stored.audit_sequence + 1, min(missing, KEPT)
                )
                self._records |= {record.sequence: record for record in found}
                oldest = stored.audit_sequence - KEPT
                self._records = {number: each for number, each in self._records.items() if number > oldest}
                requests = self._store.requests(stored.experiment.name, min(missing, KEPT))
                self._requests = {each.outcome.revision: each for each in requests} | self._requests
                while len(self._requests) > KEPT:
                    del self._requests[min(self._requests)]
        self._seen.append(stored)

    def lost_by(self, order: tuple[int, int]) -> int:
        """How many generations a store lacks that has the experiment in this (uid, generation); 0 for none."""
        newest = self.newest
        if newest is None or order[0] != newest.experiment.uid:
            return 0
        return max(newest.generation - order[1], 0)

    def put_back(self, now: Stored, fence: Fence) -> Stored:
        """Commit what the store lost after ``now``; what it has then.

        Raises NotAllowed when ``now`` is not an ancestor, or too much is missing to say; Stale when somebody else
        commits meanwhile.
        """
        for commit in list(self._commits(now, fence)):
            generation = self._store.commit(commit)
            if commit.audit is not None:
                now = Stored(
                    commit.experiment,
                    commit.allocation,
                    generation,
                    commit.audit.sequence,
                    commit.audit.hash,
                )
            else:
                now = Stored(
                    commit.experiment, commit.allocation, generation, now.audit_sequence, now.audit_hash
                )
        return now

    def _commits(self, now: Stored, fence: Fence) -> Iterator[Commit]:
        name = now.experiment.name
        known = {each.generation: each for each in self._seen}.get(now.generation)
        if known is None or _marks(known) != _marks(now):
            raise NotAllowed(
                f"{name}: the store is at generation {now.generation} of another past than this learner's; nothing is "
                "learnt from it; restore the store, or accept it as it is by `banditctl accept-store`",
                reason="ANOTHER_PAST",
                name=name,
            )
        generation, sequence, revision = now.generation, now.audit_sequence, now.experiment.revision
        for lost in (each for each in self._seen if each.generation > now.generation):
            records = [self._records.get(number) for number in range(sequence + 1, lost.audit_sequence + 1)]
            if None in records:
                raise NotAllowed(
                    f"{name}: audit records after {sequence} are lost; restore the store, or accept it as it is by "
                    "`banditctl accept-store`",
                    reason="ANOTHER_PAST",
                    name=name,
                )
            # Not fewer commits than there were: a server knows by the generation what is newer.
            requests = [
                self._requests[number]
                for number in range(revision + 1, lost.experiment.revision + 1)
                if number in self._requests
            ]
            while records or generation < lost.generation:
                record = records.pop(0) if records else None
                request = requests.pop(0) if requests else None
                yield Commit(generation, lost.experiment, lost.allocation, record, fence, request=request)
                generation += 1
            sequence, revision = lost.audit_sequence, lost.experiment.revision


def _marks(stored: Stored) -> tuple[object, ...]:
    """What tells commits of one generation apart."""
    return (
        stored.experiment.uid,
        stored.experiment.revision,
        stored.allocation.number,
        stored.audit_sequence,
        stored.audit_hash,
    )
