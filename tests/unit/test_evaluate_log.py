"""Logs of decisions: what lines may say, where what is wrong with them is told, and which rewards count."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from bandit.errors import InvalidArgument
from bandit.evaluate.lines import read_lines
from bandit.evaluate.logged import MOST_FAULTS, NO_UNIT
from bandit.evaluate.open_bandit import read_open_bandit
from bandit.ledger import ONE
from bandit.spec.parse import parse_mapping
from tests.evaluations import START_MS, spec_of

LIKED = {"name": "liked", "kind": "bernoulli", "direction": "maximize", "attribution_window": "60s"}
COST = {**LIKED, "name": "cost", "kind": "gaussian", "direction": "minimize", "range": [0, 2]}
SPEC = spec_of(2, metrics=[LIKED, COST], cohorts={"attribute": "plan", "values": ["pro"]})
GOOD: dict[str, Any] = {"time": "2026-01-01T00:00:01Z", "arm": "a", "propensity": 0.25}


def line(**changes: Any) -> str:
    return json.dumps({key: value for key, value in {**GOOD, **changes}.items() if value is not None})


def faults(*lines: str) -> list[str]:
    with pytest.raises(InvalidArgument) as caught:
        read_lines(lines, SPEC, "log.jsonl")
    assert len(caught.value.violations) == len(str(caught.value).splitlines())
    return str(caught.value).splitlines()


def test_a_log_says_what_its_lines_say() -> None:
    log = read_lines(
        [
            line(
                decision_id="d1",
                unit="user-1",
                attributes={"plan": "pro"},
                rewards=[{"metric": "liked", "value": 1, "delay_s": 2.5}],
                # What a decide reply tells beside.
                reason="DECISION_REASON_ASSIGNED",
                epoch=1,
                allocation_number=7,
                token="AQEB",
                state_age="0s",
                mode="SERVING_MODE_FRESH",
                counted=True,
            ),
            "",
            line(
                time="2026-01-01T01:00:03.25+01:00",
                propensity=None,
                arm="b",
                propensities={"a": 0.25, "b": 0.75},
            ).replace('"propensities": {"a": 0.25, "b": 0.75}', '"propensityPpm": 750000'),
            json.dumps(
                {"decisionId": "d1", "metric": "cost", "value": 0.5, "eventTime": "2026-01-01T00:00:02Z"}
            ),
            json.dumps(
                {"token": "AQEB", "metric": "cost", "value": 0.7, "event_time": "2026-01-01T00:01:30Z"}
            ),
            json.dumps({"decision_id": "d3", "arm": "a", "time": "2026-01-01T00:00:09Z", "counted": False}),
            json.dumps({"decision_id": "d3", "metric": "liked", "value": 1}),
            line(time="2026-01-01T00:00:09Z", reason="DECISION_REASON_PAUSED", propensity=1),
        ],
        SPEC,
        "log",
    )
    assert log.size == 2
    assert log.time_ms.tolist() == [START_MS + 1000, START_MS + 3250]
    assert (log.arm.tolist(), log.propensity.tolist()) == ([0, 1], [0.25, 0.75])
    assert (log.cohort.tolist(), log.unit.tolist()) == ([1, 0], [0, NO_UNIT])
    assert 1 <= log.bucket[0] <= 64
    assert log.bucket[1] == 0
    assert log.propensities is None
    assert log.rewards.arrival_ms.tolist() == [START_MS + 2000, START_MS + 3500]
    assert log.rewards.metric.tolist() == [1, 0]
    assert log.rewards.q.tolist() == [ONE // 4, ONE]
    assert (log.late, log.uncounted, log.end_ms) == (1, 2, START_MS + 90_000)


def test_propensities_of_all_arms_are_taken() -> None:
    log = read_lines([line(propensity=None, propensities={"a": 1})], SPEC, "log")
    assert log.propensities is not None
    np.testing.assert_array_equal(log.propensities, [[1.0, 0.0]])
    assert log.propensity.tolist() == [1.0]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (['{"time": '], "log.jsonl:1:10: no JSON: Expecting value"),
        (["[1]"], "log.jsonl:1:1: [1] is no object"),
        (["[" * 100_000], "deep"),
        ([line(unit="\ud800")], "half of a surrogate pair"),
        (
            [line().replace("0.25", "9" * 400)],
            "log.jsonl:1:1: 99999999999999999999... is too long for a number",
        ),
        ([line().replace("0.25", "1e999")], "propensity: inf is not in (0, 1]"),
        ([line().replace("0.25", "NaN")], "NaN is no number of JSON"),
        ([line().replace("0.25", "Infinity")], "Infinity is no number of JSON"),
        ([line().replace('"arm"', '"time": "x", "arm"')], "time: told twice"),
        ([line(propensity=0)], "propensity: 0 is not in (0, 1]"),
        ([line(propensity=-0.1)], "propensity: -0.1 is not in (0, 1]"),
        ([line(propensity=1.01)], "propensity: 1.01 is not in (0, 1]"),
        ([line(propensity="0.25")], 'propensity: "0.25" is not a number'),
        ([line(propensity=True)], "propensity: true is not a number"),
        ([line(propensity=None)], "propensity: missing; the chance that the arm had is needed"),
        ([line(propensity_ppm=250_000)], "propensity_ppm: told beside propensity"),
        ([line(propensity=None, propensity_ppm=0)], "propensity: 0.0 is not in (0, 1]"),
        ([line(propensity=None, propensity_ppm=0.5)], "propensity_ppm: 0.5 is not a whole number"),
        ([line(propensities={"a": 0.5, "b": 0.4})], "propensities: add up to 0.9"),
        ([line(propensities={"a": 1.5, "b": -0.5})], "propensities: add up to 1"),
        (
            [line(propensities={"a": 0.5, "x": 0.5})],
            "propensities: 'x' is not in the spec; its arms are a, b",
        ),
        ([line(propensities={"a": 0.5, "b": "x"})], 'propensities.b: "x" is not a number'),
        ([line(propensities={"a": 0.5, "b": 0.5})], "propensity: 0.25, but propensities say 0.5"),
        ([line(propensity=None, propensities={"b": 1})], "propensities: a was given at a propensity of 0"),
        (
            [line(propensities={"a": 0.25, "b": 0.75}), line()],
            ":2:1: propensities: missing here and told above",
        ),
        (
            [line(), line(propensities={"a": 0.25, "b": 0.75})],
            ":2:1: propensities: told here and missing above",
        ),
        ([line(arm="c")], "arm: 'c' is not in the spec; its arms are a, b"),
        ([line(arm=None)], "arm: missing; a decision has time, arm and propensity"),
        ([line(arm=3)], "arm: 3 is not a text"),
        ([line(time=None)], "time: missing"),
        ([line(time="2026-01-01T00:00:00")], "time: '2026-01-01T00:00:00' is no time with a zone"),
        ([line(time="0001-01-01T00:00:00+23:59")], "time: before 1970"),
        ([line(time="soon")], "time: 'soon' is no time with a zone"),
        (
            [line(), line(time="2026-01-01T00:00:00Z")],
            ":2:1: time: 1 s before the decision above it; sort the log",
        ),
        (
            [line(decision_id="d"), line(), line(decision_id="d")],
            ":3:1: decision_id: 'd' is that of line 1 too",
        ),
        ([line(reason=1)], "reason: 1 is not a text"),
        ([line(arms="a")], "arms: no such field; did you mean arm?"),
        ([line(zzzz=1)], "zzzz: no such field; the fields are time, arm"),
        ([line(attributes={"plan": 1})], "attributes.plan: 1 is no text"),
        ([line(rewards={"liked": 1})], "is not a list"),
        ([line(rewards=[1])], "rewards.0: 1 is no object"),
        ([line(rewards=[{"value": 1}])], "metric: missing"),
        ([line(rewards=[{"metric": "liked"}])], "rewards.liked: no value; send a number"),
        ([line(rewards=[{"metric": "liked", "value": None}])], "rewards.liked: no value; send a number"),
        ([line(rewards=[{"metric": "liked", "value": "1"}])], "rewards.liked: '1' is of type str"),
        ([line(rewards=[{"metric": "liked", "value": 0.5}])], "rewards.liked: 0.5 on a bernoulli metric"),
        (
            [line(rewards=[{"metric": "cost", "value": 3}])],
            "rewards.cost: 3 is outside the declared range [0, 2]",
        ),
        ([line(rewards=[{"metric": "x", "value": 3}])], "metric 'x' is not in this experiment"),
        ([line(rewards=[{"metric": "liked", "value": 1, "score": 1}])], "rewards.0.score: no such field"),
        ([line(rewards=[{"metric": "liked", "value": 1, "delay_s": -1}])], "delay_s: -1 is not in [0"),
        ([line(rewards=[{"metric": "liked", "value": 1, "sequence": -1}])], "sequence: -1 is not in [0"),
        (
            [
                line(
                    rewards=[
                        {"metric": "liked", "value": 1, "delay_s": 1, "event_time": "2026-01-01T00:00:09Z"}
                    ]
                )
            ],
            "delay_s: told beside event_time",
        ),
        (
            [line(rewards=[{"metric": "liked", "value": 1, "event_time": "2026-01-01T00:00:00Z"}])],
            "rewards.liked: 1 s before its decision",
        ),
        (['{"metric": "liked", "value": 1}'], "decision_id: missing; write a reward below its decision"),
        (
            ['{"metric": "liked", "value": 1, "decision_id": "d"}', line(decision_id="d")],
            ":1:1: decision_id: 'd' is that of no line above",
        ),
        ([], "log.jsonl:1:1: no decision; give a log with at least one"),
        ([line(counted=False)], "no decision but 1 that were not counted"),
    ],
)
def test_what_is_wrong_is_told_at_its_line(lines: list[str], told: str) -> None:
    (found,) = faults(*lines)
    assert told in found
    assert found.startswith("log.jsonl:")


def test_every_fault_is_told_at_once_up_to_twenty() -> None:
    bad = [line(arm="c"), line(), line(propensity=2)]
    assert [each.split(":")[1] for each in faults(*bad)] == ["1", "3"]
    assert len(faults(*[line(arm="c")] * 50)) == MOST_FAULTS


HEAD = ",timestamp,item_id,position,click,propensity_score,user_feature_0\n"
ROW = "0,2019-11-24 00:01:03.979311+00:00,1,2,0,0.25,f1\n"
ITEMS = parse_mapping(
    {
        "experiment": "items",
        "arms": [{"name": "item-0", "control": True}, {"name": "item-1"}],
        "metrics": [{**LIKED, "name": "click"}],
        "objective": [{"metric": "click"}],
        "cohorts": {"attribute": "user_feature_0", "values": ["f1"]},
    }
)


def test_rows_of_the_open_bandit_dataset_are_decisions() -> None:
    second = ROW.replace(",1,2,0,", ",0,1,1,").replace("f1", "f2").replace("+00:00", "")
    for name in ("propensity_score", "action_prob"):
        log = read_open_bandit([HEAD.replace("propensity_score", name), ROW, second], ITEMS, "log.csv")
        assert (log.arm.tolist(), log.propensity.tolist(), log.cohort.tolist()) == (
            [1, 0],
            [0.25, 0.25],
            [1, 0],
        )
        assert log.time_ms.tolist() == [1_574_553_663_979] * 2
        assert log.rewards.q.tolist() == [0, ONE]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (["a,b\n", "1,2\n"], "log.csv:1:1: no column timestamp, item_id, click"),
        ([], "log.csv:1:1: no column"),
        ([HEAD.replace("propensity_score", "p"), ROW], "no column propensity_score or action_prob"),
        ([HEAD], "no decision"),
        ([HEAD, ROW, ROW.replace("0.25", "nan")], "log.csv:3:1: propensity: nan is not in (0, 1]"),
        ([HEAD, ROW.replace("0.25", "0")], "log.csv:2:1: propensity: 0.0 is not in (0, 1]"),
        ([HEAD, ROW.replace("0.25", "x")], "propensity_score: 'x' is no number"),
        ([HEAD, ROW.replace(",1,2,0,", ",7,2,0,")], "arm: 'item-7' is not in the spec"),
        ([HEAD, ROW.replace(",1,2,0,", ",1,2,2,")], "rewards.click: 2.0 on a bernoulli metric"),
        ([HEAD, ROW.replace(",1,2,0,", ",1,2,,")], "click: '' is no number"),
        ([HEAD, ROW.replace("2019-11-24 ", "then")], "is no time"),
        ([HEAD, ROW.replace("2019", "1919")], "log.csv:2:1: time: before 1970"),
        ([HEAD, "0,1\n"], "more or fewer values than columns"),
        ([HEAD, ROW.replace("\n", ",1,2\n")], "more or fewer values than columns"),
        ([HEAD, ROW, ROW.replace("00:01", "00:00")], "log.csv:3:1: time: 60 s before"),
        ([HEAD, '0,"' + "x" * 200_000 + "\n"], "no row: field larger"),
    ],
)
def test_rows_of_another_form_are_refused(rows: list[str], told: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_open_bandit(rows, ITEMS, "log.csv")
    assert told in str(caught.value)
