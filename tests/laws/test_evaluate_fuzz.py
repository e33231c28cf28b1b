"""Any line is read or refused with its place; nothing else comes of it, whatever it says."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.errors import InvalidArgument
from bandit.evaluate.lines import ALONE, DECISION, REWARD, read_lines
from bandit.evaluate.logged import Logged
from bandit.evaluate.open_bandit import read_open_bandit
from tests.evaluations import spec_of

LIKED = {"name": "liked", "kind": "bernoulli", "direction": "maximize", "attribution_window": "60s"}
SPEC = spec_of(
    2,
    metrics=[LIKED, {**LIKED, "name": "cost", "kind": "gaussian", "range": [0, 2], "aggregate": "sum"}],
    cohorts={"attribute": "plan", "values": ["pro"]},
)
TELLING = st.sampled_from(
    [
        "a",
        "b",
        "c",
        "liked",
        "cost",
        "2026-01-01T00:00:00Z",
        "2026-01-01T00:00:05+01:00",
        "0001-01-01T00:00:00Z",
        "pro",
        "\ud800",
    ]
)
NUMBERS = st.one_of(
    st.sampled_from([10**400, 0, 1, 0.5]), st.sampled_from([0.25, -1, 2.5, 1e300]), st.floats(), st.integers()
)
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, TELLING, st.text(max_size=8))
ANY = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(st.sampled_from(["a", "b", "plan"]), st.text(max_size=4)), inner, max_size=3
        ),
    ),
    max_leaves=6,
)
GIVEN = st.dictionaries(st.sampled_from(REWARD), ANY, max_size=4)


# Nearly right: what passes the first checks meets the later ones.
NEARLY = st.fixed_dictionaries(
    {"time": st.just("2026-01-01T00:00:00Z"), "arm": st.just("a")},
    optional={
        "propensity": NUMBERS,
        "unit": TELLING,
        "attributes": st.dictionaries(TELLING, TELLING, max_size=2),
        "propensities": st.dictionaries(st.sampled_from(["a", "b"]), NUMBERS, max_size=2),
        "rewards": st.lists(
            st.fixed_dictionaries(
                {"metric": st.sampled_from(["liked", "cost"]), "value": NUMBERS},
                optional={
                    "delay_s": NUMBERS,
                    "event_time": TELLING,
                    "event_id": TELLING,
                    "sequence": NUMBERS,
                },
            ),
            max_size=2,
        ),
    },
)


def objects(fields: tuple[str, ...]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(fields), st.one_of(ANY, st.lists(GIVEN, max_size=2)), max_size=5)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(NEARLY, objects(DECISION), objects(ALONE), ANY), max_size=4), st.text(max_size=20))
def test_any_line_is_read_or_refused(values: list[Any], text: str) -> None:
    lines = [json.dumps(each) for each in values]
    for written in (lines, [*lines, text], [each[:-1] for each in lines]):
        for log in filter(None, [read(written)]):
            assert log.size >= 1
            assert ((log.propensity > 0) & (log.propensity <= 1)).all()


def read(lines: list[str]) -> Logged | None:
    try:
        return read_lines(lines, SPEC, "log")
    except InvalidArgument as error:
        if not all(each.field.startswith("log:") for each in error.violations):
            raise AssertionError(f"a fault without its place: {error}") from error
        return None


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.one_of(TELLING, NUMBERS.map(str), st.text(max_size=6)), max_size=6), max_size=4))
def test_any_row_is_read_or_refused(rows: list[list[str]]) -> None:
    head = "timestamp,item_id,click,propensity_score,position"
    with contextlib.suppress(InvalidArgument):
        read_open_bandit([head, *(",".join(row) for row in rows)], SPEC, "log")
