"""A gateway and event pipeline in one process, straight on a store: decides, journals nothing, reports rewards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bandit.decide import compile_table
from bandit.ledger import bucket_of
from bandit.log import EXPOSURE, EXPOSURES, REWARDS, Append, exposure_entry
from bandit.reward import RewardEvent, accept_with_token
from bandit.rollout.audit import GENESIS
from bandit.rollout.state import Experiment
from bandit.rollout.transitions import Transition, audit_record, create
from bandit.spec.model import ExperimentSpec
from bandit.token import REROUTED, Claims
from server.store.base import Commit, Store
from tests.builders import SALT

Draw = Callable[[str, int], Mapping[str, float]]


@dataclass
class Gateway:
    """Counts what it did, by arm, so that a test can compare with the ledger."""

    store: Store
    name: str
    issuer: int = 1
    number: int = 0
    decided: dict[str, int] = field(default_factory=dict)
    rewarded: int = 0

    def create(self, spec: ExperimentSpec, now_ms: int) -> None:
        """Put the experiment into the store, in DRAFT."""
        made = create(spec, self.store.next_uid(), SALT, now_ms)
        audit = audit_record(None, made, actor="t", sequence=0, previous_hash=GENESIS, now_ms=now_ms)
        self.store.commit(Commit(0, made.experiment, made.allocation, audit))

    def change(
        self, act: Callable[..., Transition | None], *args: object, now_ms: int, **kwargs: object
    ) -> None:
        """Commit an operator's transition."""
        stored = self.store.load(self.name)
        assert stored is not None
        move = act(stored.experiment, stored.allocation, *args, now_ms=now_ms, **kwargs)
        assert move is not None
        audit = audit_record(
            (stored.experiment, stored.allocation),
            move,
            actor="operator",
            sequence=stored.audit_sequence,
            previous_hash=stored.audit_hash,
            now_ms=now_ms,
        )
        self.store.commit(Commit(stored.generation, move.experiment, move.allocation, audit))

    def serve(
        self,
        count: int,
        now_ms: int,
        draw: Draw,
        *,
        unit: Callable[[int], str] = "unit-{}".format,
        attributes: Callable[[int], Mapping[str, str]] = lambda number: {},
    ) -> None:
        """Decide ``count`` units and report what ``draw`` (arm, number) says of each; ``unit`` and ``attributes`` by
        number too."""
        stored = self.store.load(self.name)
        assert stored is not None
        table = compile_table(stored.experiment, stored.allocation)
        exposures, records, first = [], [], self.number
        for _ in range(count):
            decision = table.decide(unit(self.number), attributes(self.number))
            arm = table.arms[decision.arm]
            bucket = bucket_of(decision.unit_hash, rerouted=decision.rerouted)
            self.decided[arm] = self.decided.get(arm, 0) + 1
            exposures.append(EXPOSURE.pack(table.allocation, decision.cohort, decision.arm, bucket))
            claims = Claims(
                table.uid, table.epoch, table.allocation, self.issuer, self.number, now_ms, decision.unit_hash,
                decision.propensity_ppm, decision.cohort | decision.rerouted * REROUTED, decision.arm,
            )  # fmt: skip
            records += self._records(stored.experiment, claims, draw(arm, self.number), now_ms)
            self.number += 1
        self.rewarded += len(records)
        payload = exposure_entry(self.issuer, table.epoch, first, b"".join(exposures))
        self.store.append(
            [
                Append(self.name, table.uid, EXPOSURES, payload),
                Append(self.name, table.uid, REWARDS, b"".join(records)),
            ]
        )

    def _records(
        self, experiment: Experiment, claims: Claims, values: Mapping[str, float], now_ms: int
    ) -> list[bytes]:
        return [
            accept_with_token(experiment, claims, RewardEvent(metric, value), now_ms).pack()
            for metric, value in values.items()
        ]
