"""Removing a source: the ledger, the marks and the counts become what they would be had its events never counted."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit import compact
from server.store.base import FoldWrite
from tests.removing import SHAPES, SOURCES, Side, alike, draw, play, small

HOUR_MS = 3_600_000


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=15)
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


class Dying(Exception):
    """The process ends here."""


@contextmanager
def dies_at(side: Side, fatal: int, *, taken: bool) -> Iterator[None]:
    """The writer dies with its fold of this number, which the store takes or not."""
    fold, calls = side.store.fold, count()

    def dying(name: str, write: FoldWrite) -> bool:
        if next(calls) != fatal:
            return fold(name, write)
        if taken:
            fold(name, write)
        raise Dying

    with patch.object(side.store, "fold", dying):
        yield


@pytest.mark.parametrize("shape", ["remembered", "marks, sticky"])
@pytest.mark.parametrize("taken", [True, False], ids=["taken", "not taken"])
def test_a_writer_may_die_at_any_write_of_a_removal(shape: str, taken: bool) -> None:
    """The next one goes on from what the store has: nothing is taken back twice, nothing is forgotten."""
    before, after = draw(random.Random(7), 60), draw(random.Random(8), 20)
    with small(3), patch.object(compact, "LEAST", 3):
        died = True
        fatal = 0
        while died:
            side, died = Side(shape, "1m"), False
            play(side, before)
            side.remove("clicks")
            with dies_at(side, fatal, taken=taken):
                try:
                    side.settle()
                except Dying:
                    died = True
            if died:
                side.again()
                assert side.writer.stands == (side.writer.state.removals == 0)
            play(side, after)
            now_ms = side.ms + HOUR_MS
            found = side.finished(now_ms)
            clean = Side(shape, "0s", side.stored.experiment.quarantines)
            play(clean, before + after)
            alike(found, clean.finished(now_ms), shape)
            fatal += 1
    assert fatal > 3
