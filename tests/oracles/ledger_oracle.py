"""A slow, independent count of rewards and exposures in Python integers and dictionaries."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field


@dataclass
class Oracle:
    """First reward of a (decision, metric) counts; exposures once per (issuer, number)."""

    first: dict[tuple[int, int, int], int] = field(default_factory=dict)
    cells: dict[tuple[int, int, int, int], list[int]] = field(
        default_factory=lambda: defaultdict(lambda: [0, 0, 0])
    )
    exposed: set[tuple[int, int]] = field(default_factory=set)
    exposures: dict[tuple[int, int, int], int] = field(default_factory=lambda: defaultdict(int))
    outcomes: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def reward(self, issuer: int, number: int, metric: int, place: tuple[int, int, int], q: int) -> str:
        """``place`` is (allocation, cohort, arm). Returns applied, duplicate or conflict."""
        key = (issuer, number, metric)
        if key in self.first:
            outcome = "duplicate" if self.first[key] == q else "conflict"
        else:
            outcome = "applied"
            self.first[key] = q
            cell = self.cells[(*place, metric)]
            cell[0] += 1
            cell[1] += q
            cell[2] += q * q
        self.outcomes[outcome] += 1
        return outcome

    def exposure(self, issuer: int, number: int, place: tuple[int, int, int]) -> None:
        """Count a decision once."""
        if (issuer, number) not in self.exposed:
            self.exposed.add((issuer, number))
            self.exposures[place] += 1
