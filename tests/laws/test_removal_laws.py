"""Removing a source: the ledger, the marks and the counts become what they would be had its events never counted."""

from __future__ import annotations

import random
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit import compact
from tests.removing import SHAPES, SOURCES, Side, alike, draw, play, small

HOUR_MS = 3_600_000


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=25)
@given(seed=st.integers(0, 2**40), lengths=st.tuples(*[st.integers(1, 40)] * 3), release=st.booleans())
def test_after_a_removal_all_is_as_if_the_source_never_was(
    shape: str, seed: int, lengths: tuple[int, int, int], release: bool
) -> None:
    """Whatever came before, between and after; wherever blocks were made, batches cut and writers replaced."""
    chance = random.Random(seed)
    source = chance.choice(SOURCES)
    ends: list[tuple[str, Any]] = [("remove", source), *[("release", source)] * release]
    parts = [draw(chance, length) for length in lengths]
    script = parts[0] + ends[:1] + parts[1] + ends[1:] + parts[2]
    with small(chance.choice([1, 2, 3, 50])), patch.object(compact, "LEAST", 3):
        poisoned = Side(shape, chance.choice(["1m", "5m", "1d"]))
        play(poisoned, script)
        now_ms = poisoned.ms + HOUR_MS
        found = poisoned.finished(now_ms)
        clean = Side(shape, "0s", poisoned.stored.experiment.quarantines)
        play(clean, script)
        alike(found, clean.finished(now_ms), shape)
