"""Reading specs: the good example, every mistake at its line, and texts that mean harm."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bandit.errors import InvalidArgument
from bandit.spec.model import Direction, MetricKind
from bandit.spec.parse import parse_mapping, parse_yaml

SPECS = Path(__file__).resolve().parents[1] / "fixtures" / "specs"
GOOD = (SPECS / "support-answers.yaml").read_text()
SMALL = """experiment: small
arms:
  - name: a
    control: true
  - name: b
metrics:
  - name: ok
    kind: bernoulli
    direction: maximize
objective:
  - metric: ok
"""

TEN = """\
exp.yaml:1:13: experiment: 'Support Answers' is not a name; use lower-case letters, digits and hyphens, \
a letter first, at most 63 characters, for example support-answers
exp.yaml:4:14: arms.0.control: yes is not true or false to every reader; write true
exp.yaml:7:7: arms.1.bounds.flor: unknown key; did you mean floor? allowed: floor, cap, ramp_per_minute
exp.yaml:8:12: arms.1.bounds.cap: 80 is not allowed; allowed: 0 to 1; for 80 % write 0.8
exp.yaml:11:11: metrics.0.kind: 'bernouli' is not allowed; write bernoulli, fraction, gaussian, poisson, \
exponential, lognormal, revenue, rating or ratio; did you mean bernoulli?
exp.yaml:13:5: metrics.1.range: missing; a gaussian metric such as latency_ms needs the lowest and highest \
legal value, outside of which a reward is rejected: add range: [low, high]
exp.yaml:16:25: metrics.1.attribution_window: 30 is not a duration; write a number and ms, s, m, h, d or w, \
for example 30m
exp.yaml:18:13: objective.0.metric: 'satisfyed' is not a metric of this experiment; did you mean satisfied? \
declared: satisfied, latency_ms
exp.yaml:19:5: objective.1.metric: missing; add metric (name of the metric)
exp.yaml:23:13: guardrails.0.metric: rate_limit on latency_ms, which is gaussian; it counts bad outcomes of a \
bernoulli metric: name one, or write kind: harm"""


def refused(text: str, path: str = "f") -> list[str]:
    """The lines of the refusal of ``text``."""
    with pytest.raises(InvalidArgument) as caught:
        parse_yaml(text, path)
    return str(caught.value).splitlines()


def only(text: str) -> str:
    lines = refused(text)
    assert len(lines) == 1, lines
    return lines[0]


def test_the_good_example_is_read() -> None:
    spec = parse_yaml(GOOD)
    assert [arm.name for arm in spec.arms] == ["large", "small-retrieval", "small-tuned"]
    assert spec.control_index == 0
    assert [(metric.name, metric.kind, metric.direction) for metric in spec.metrics] == [
        ("satisfied", MetricKind.BERNOULLI, Direction.MAXIMIZE),
        ("cost_usd", MetricKind.GAUSSIAN, Direction.MINIMIZE),
        ("unsafe", MetricKind.BERNOULLI, Direction.MINIMIZE),
        ("latency_ms", MetricKind.GAUSSIAN, Direction.MINIMIZE),
    ]
    assert spec.metrics[0].default_when_silent == 0
    assert [(term.metric, term.weight) for term in spec.objective] == [("satisfied", 0.6), ("cost_usd", 0.4)]
    assert {guardrail.kind for guardrail in spec.guardrails} == {"rate_limit", "harm", "breaker"}
    assert [spec.bounds_ppm(index) for index in range(3)] == [
        (100_000, 1_000_000, 1_000_000),
        (20_000, 800_000, 50_000),
        (20_000, 300_000, 50_000),
    ]


def test_ten_mistakes_are_told_at_once_each_at_its_line() -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_yaml((SPECS / "ten-mistakes.yaml").read_text(), "exp.yaml")
    assert str(caught.value) == TEN
    assert [f"{field}: {sentence}" for field, sentence in caught.value.violations] == [
        line.split(": ", 1)[1] for line in TEN.splitlines()
    ]


def test_the_same_mistakes_in_a_mapping_have_fields_and_no_lines() -> None:
    mapping = {
        "experiment": "small",
        "arms": [{"name": "a", "control": True}, {"name": "b", "flor": 0.1}],
        "metrics": [{"name": "ok", "kind": "bernoulli", "direction": "maximize"}],
        "objective": [{"metric": "okay"}],
    }
    with pytest.raises(InvalidArgument) as caught:
        parse_mapping(mapping, "experiment.spec")
    assert [violation.field for violation in caught.value.violations] == [
        "experiment.spec.arms.1.flor",
        "experiment.spec.objective.0.metric",
    ]
    assert str(caught.value).startswith(
        "experiment.spec.arms.1.flor: unknown key; did you mean bounds.floor? allowed: "
    )


def test_a_mapping_reads_as_its_yaml() -> None:
    assert parse_mapping(yaml.safe_load(GOOD)) == parse_yaml(GOOD)


@pytest.mark.parametrize(
    ("value", "field", "part"),
    [
        ([], "spec", "a list is not a mapping"),
        ("a", "spec", "'a' is not a mapping"),
        ({"alpha": 10**5000}, "spec.alpha", "a whole number of more than 300 digits"),
        ({"experiment": b"x"}, "spec.experiment", "a bytes is no plain value"),
        ({3: "x"}, "spec.3", "a key that is not text"),
        ({"arms": {"a"}}, "spec.arms", "a set is no plain value"),
    ],
)
def test_values_that_are_not_plain_are_refused(value: object, field: str, part: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_mapping(value)  # type: ignore[arg-type]
    assert any(each.field == field and part in each.description for each in caught.value.violations)


def test_a_mapping_that_holds_itself_is_refused() -> None:
    loop: dict[str, object] = {}
    loop["arms"] = loop
    with pytest.raises(InvalidArgument, match="nested deeper than 16 levels"):
        parse_mapping(loop)
    with pytest.raises(InvalidArgument, match="more than 20000 values"):
        parse_mapping({"arms": [0] * 30_000})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "f:1:1: spec: the file is empty; begin it with `experiment: NAME`"),
        ("# only words\n", "f:1:1: spec: the file is empty; begin it with `experiment: NAME`"),
        (
            "[]",
            "f:1:1: spec: a list is not a mapping; write its keys (experiment, hypothesis, unit, arms) below it,",
        ),
        (
            SMALL + "---\n" + SMALL,
            "f:12:1: spec: a second document begins here; one file holds one experiment:",
        ),
        (SMALL + "arms: []\n", "f:12:1: arms: this key was given on line 2 already; keep one of the two"),
        (
            SMALL.replace("  - metric: ok", "  - &x\n    metric: ok"),
            "f:11:5: objective.0: an anchor (&x); anchors are not taken: leave it out",
        ),
        (
            SMALL.replace("metric: ok", "metric: *x"),
            "f:11:13: objective.0.metric: an alias (*x); aliases are not taken: write the value out",
        ),
        (
            SMALL.replace("metric: ok", "metric: !!str ok"),
            "f:11:13: objective.0.metric: a tag (!...); tags are not taken: write the plain value",
        ),
        (SMALL + "? [a]\n: 1\n", "f:12:3: spec: a list or mapping as a key; a key is one word: write it out"),
        ("\texperiment: a", "f:1:1: spec: a tab; YAML indents with spaces only: replace the tab"),
        (
            "experiment: a\x07",
            "f:1:14: spec: the character U+0007, which an editor does not show; delete it,",
        ),
        (
            "experiment: a\u2028",
            "f:1:14: spec: the character U+2028, which an editor does not show; delete it,",
        ),
        ("arms: [a", "f:1:7: spec: this list is not closed; separate its items with ',' and end it with ']'"),
        ("arms: [a,", "f:1:10: spec: a value is missing here; write it, and quote text that begins with"),
        ("- a\nb: 1", "f:2:1: spec: this line does not continue the list above; begin each item with '- '"),
        ("arms: 'a", "f:1:7: spec: these quotes are not closed; end the text with the same quote"),
        (
            "a: b: c",
            "f:1:5: spec: a key where none can be; check the indentation and the space after each colon,",
        ),
        (
            "a: 1\nb",
            "f:2:1: spec: a key without ': '; write `key: value`, with a space after the colon, and close",
        ),
        (
            "x: " + "[" * 20 + "]" * 20,
            "f:1:19: spec: nested deeper than 16 levels; a spec needs 4: check the",
        ),
    ],
)
def test_texts_that_are_no_spec(text: str, expected: str) -> None:
    assert only(text).startswith(expected)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "name: b",
            "name: on",
            '5:11: arms.1.name: on without quotes is true or false to some YAML readers; write "on"',
        ),
        (
            "name: b",
            "name: No",
            '5:11: arms.1.name: No without quotes is true or false to some YAML readers; write "No"',
        ),
        ("name: b", "name: true", '5:11: arms.1.name: true without quotes is not text; write "true"'),
        ("name: b", "name: 1.10", '5:11: arms.1.name: 1.10 without quotes is not text; write "1.10"'),
        ("name: b", "name: null", "5:11: arms.1.name: nothing is written here; write text, in quotes"),
        ("name: b", "name:", "5:5: arms.1.name: nothing is written here; write text, in quotes"),
        ("name: b", "name: [b]", "5:11: arms.1.name: a list is not text; write text, in quotes"),
        (
            "control: true",
            "control: on",
            "4:14: arms.0.control: on is not true or false to every reader; write true",
        ),
        (
            "control: true",
            "control: 'true'",
            "'true' is not true or false to every reader; write true without quotes",
        ),
        ("control: true", "control: 1", "4:14: arms.0.control: 1 is not true or false; write one of them"),
        (
            "name: b",
            "name: b\n    digest: 0o17",
            'arms.1.digest: 0o17 without quotes is not text; write "0o17"',
        ),
        ("name: b", "name: b\n    digest: a b", "6:13: arms.1.digest: 'a b' holds a space; it is one word"),
        (
            "name: b",
            "name: b\n    metadata: {no: x}",
            "6:16: arms.1.metadata.no: the key no without quotes is not text",
        ),
        (
            "kind: bernoulli",
            "kind:",
            (
                "8:5: metrics.0.kind: nothing is written here; write bernoulli, fraction, gaussian, poisson, "
                "exponential, lognormal, revenue, rating or ratio"
            ),
        ),
        (
            "control: true",
            "control:",
            "4:5: arms.0.control: nothing is written here; write true or false, or leave it out",
        ),
        (
            "objective:",
            "decay: {half_life: }\nobjective:",
            "10:9: decay.half_life: nothing is written here; write a number and ms, s, m, h, d or w, for example 30m",
        ),
        ("metric: ok", "weight: 1", "11:5: objective.0.metric: missing; add metric (name of the metric)"),
        (
            "objective:",
            "allocater: {}\nobjective:",
            "10:1: allocater: unknown key; did you mean allocator? allowed: ",
        ),
        (
            "objective:",
            "guardrial: []\nobjective:",
            "10:1: guardrial: unknown key; did you mean guardrails? allowed: ",
        ),
        (
            "objective:",
            "variants: []\nobjective:",
            "10:1: variants: unknown key; did you mean arms? allowed: ",
        ),
        (
            "name: b",
            "name: b\n    floor: 0.1",
            "6:5: arms.1.floor: unknown key; did you mean bounds.floor? allowed: ",
        ),
        (
            "objective:",
            "bounds:\nobjective:",
            "10:1: bounds: nothing is written here; write its keys (floor, cap,",
        ),
        (
            "objective:",
            "unit: user\nobjective:",
            "10:7: unit: 'user' is not a mapping; write its keys (kind, mode)",
        ),
        (
            "  - metric: ok",
            "  metric: ok",
            "11:3: objective: a mapping is not a list; write its items below it",
        ),
        ("  - name: b\n", "", "3:3: arms: 1 given; at least 2 needed (the variants that are compared, one"),
    ],
)
def test_one_mistake_has_one_sentence(old: str, new: str, expected: str) -> None:
    assert expected in only(SMALL.replace(old, new, 1))


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ('"0.1"', "'0.1' is text; write the number without quotes: 0.1; allowed: 0 to 1"),
        ("-0.1", "-0.1 is not allowed; allowed: 0 to 1"),
        ("NaN", "'NaN' is not a finite number; write one; allowed: 0 to 1"),
        (".nan", ".nan is not a finite number; write one; allowed: 0 to 1"),
        ("-.inf", "-.inf is not a finite number; write one; allowed: 0 to 1"),
        ("9" * 400, f"{'9' * 60}... is not a finite number; write one; allowed: 0 to 1"),
        ("5", "5 is not allowed; allowed: 0 to 1; for 5 % write 0.05"),
        ("5%", "'5%' is text; write a number: 0.05; allowed: 0 to 1"),
        ("0,05", "'0,05' is text; write the decimal point: 0.05; allowed: 0 to 1"),
        (
            "0_1",
            "0_1 is a different number to different YAML readers; write plain decimal digits; allowed: 0 to 1",
        ),
        ("yes", "yes is not a number; write one; allowed: 0 to 1"),
        ("true", "true is not a number; write one; allowed: 0 to 1"),
        ("", "nothing is written here; write a number; allowed: 0 to 1, or leave it out"),
        ("1e-9", "1e-9 is above 0 and below the smallest share; write 0 or at least 0.000001"),
    ],
)
def test_numbers_are_numbers(written: str, sentence: str) -> None:
    line = only(f"{SMALL}bounds:\n  floor: {written}\n")
    assert line.partition(": bounds.floor: ")[2] == sentence


def test_floors_of_four_kinds_have_four_refusals() -> None:
    """C015: floors of 0.15 for 8 arms, -0.1, NaN and "0.1" are told apart; 0.02 for 8 arms is taken."""
    eight = SMALL.replace("  - name: b\n", "".join(f"  - name: b{index}\n" for index in range(7)))
    assert len(parse_yaml(eight + "bounds: {floor: 0.02}\n").arms) == 8
    sentences = {only(f"{eight}bounds: {{floor: {floor}}}\n") for floor in ("0.15", "-0.1", "NaN", '"0.1"')}
    assert len(sentences) == 4
    assert any("the floors of all arms add up to 1.1 (a 0.05, b0 0.15, " in each for each in sentences)


def test_scientific_notation_is_a_number() -> None:
    spec = parse_yaml(
        SMALL + "guardrails:\n  - {name: g, kind: breaker, metric: ok, limit: 0.1, tail: 1e-7}\n"
    )
    assert spec.guardrails[0].tail == 1e-7
    assert parse_yaml(SMALL + "alpha: 5.e-2\n").alpha == 0.05


def test_rules_between_fields_are_told_with_mistakes_in_fields_when_they_do_not_follow_from_them() -> None:
    text = (
        SMALL.replace("name: b", "name: a\n  - name: C").replace("metric: ok", "metric: okay") + "alpha: 2\n"
    )
    assert [line.split(": ")[1] for line in refused(text)] == [
        "arms.1.name",
        "arms.2.name",
        "objective.0.metric",
        "alpha",
    ]
    # A metric whose own name is wrong may be the one that the objective means.
    text = SMALL.replace("name: ok", "name: OK") + "alpha: 2\n"
    assert [line.split(": ")[1] for line in refused(text)] == ["metrics.0.name", "alpha"]
    # An arm with `contrl: true` is not told a second time as a missing control.
    assert "did you mean control?" in only(SMALL.replace("control", "contrl"))


def test_a_misspelt_key_beside_the_right_one_hides_no_rule() -> None:
    text = GOOD.replace("metric: latency_ms\n    margin", "metric: latency\n    margin") + "guardrial: []\n"
    assert [line.split(": ")[1] for line in refused(text)] == ["guardrails.1.metric", "guardrial"]


def test_no_rule_is_lost_when_a_field_elsewhere_is_wrong() -> None:
    text = GOOD.replace("control: true", "control: false").replace("alpha: 0.05", "alpha: high")
    assert [line.split(": ")[1] for line in refused(text)] == ["arms", "alpha"]


def test_the_types_need_no_yaml() -> None:
    code = "import sys, bandit.spec.model; sys.exit('yaml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
