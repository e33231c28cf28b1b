"""banditctl report: honest labels, both widths, one JSON document, and nothing in a text that moves a terminal."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.protobuf.json_format import ParseDict

from bandit.client import Client
from bandit.ctl.exits import Exit
from bandit.ctl.report_view import bar
from bandit.spec.parse import parse_yaml
from bandit.v1 import experiment_pb2 as pb
from bandit.v1 import report_pb2, spec_pb2
from tests.double.command import SPEC, Command
from tests.double.ground import Ground
from tests.double.server import Double
from tests.double.views import sample_verdict


def effect(low: float, high: float, finding: report_pb2.Effect.Finding.ValueType) -> report_pb2.Effect:
    return report_pb2.Effect(
        estimate=(low + high) / 2,
        low=low,
        high=high,
        method=report_pb2.Effect.METHOD_EXACT,
        finding=finding,
        aipw=low,
        aipw_se=0.01,
        n=2000,
        n_control=9000,
    )


def sample() -> report_pb2.Report:
    good = report_pb2.MetricReport(metric="helpful", direction=spec_pb2.DIRECTION_MAXIMIZE, matured=0.91)
    good.arms.add(arm="old", n=9100, answered=0.93, mean=0.41, control_mean=0.41, n_effective=8000)
    new = good.arms.add(arm="new", n=2100, answered=0.92, mean=0.47, control_mean=0.42, n_effective=1900)
    new.plain_mean_biased, new.covered, new.least, new.most = 0.45, 1.0, 0.4, 0.48
    new.effect.CopyFrom(effect(0.02, 0.08, report_pb2.Effect.FINDING_BETTER))
    good.design_effect = 3.2
    good.cohorts.add(arm="new", cohort="free", raw=0.06, effect=0.055, sd=0.01, n=900, n_control=4000)
    good.cohorts.add(
        arm="new", cohort="b\x1b[1m", raw=-0.2, effect=-0.15, sd=0.02, n=90, n_control=400, apart=0.99
    )
    bad = report_pb2.MetricReport(metric="flagged", direction=spec_pb2.DIRECTION_MINIMIZE, matured=0.0)
    bad.arms.add(arm="old")
    bad.arms.add(arm="new").effect.method = report_pb2.Effect.METHOD_NONE
    made = report_pb2.Report(
        name="experiments/answers",
        epoch=1,
        hypothesis="the new model helps [red]more[/red]\x1b[31m",
        decisions=12_000,
        level=0.95,
        metrics=[good, bad],
        winner=report_pb2.Winner(
            leader="new",
            rival="old",
            log_e=2.1,
            log_threshold=3.7,
            lift=0.05,
            lift_se=0.01,
            message="no winner yet (P(best) 0.962 is no evidence): about 4,000 more decisions",
        ),
        sample_ratio=report_pb2.SampleRatio(
            log_e=-2.0, log_threshold=6.9, message="decisions follow the shares"
        ),
        notes=["a user may bring several decisions"],
        verdicts=[
            sample_verdict("new", pb.OUTCOME_INCONCLUSIVE, "undecided"),
            sample_verdict("new", pb.OUTCOME_NO_DATA, ""),
        ],
    )
    made.evaluation_time.FromSeconds(1_700_000_000)
    for name, share in (("old", 600_000), ("new", 400_000)):
        arm = made.arms.add(
            arm=name, control=name == "old", share_ppm=share, floor_ppm=20_000, decisions=6000
        )
        arm.p_best, arm.least_propensity, arm.largest_weight = 0.5, 0.02, 50.0
        arm.mean_weight, arm.mean_weight_se = 1.01, 0.02
    made.arms[1].objective.CopyFrom(effect(0.02, 0.08, report_pb2.Effect.FINDING_BETTER))
    return made


@pytest.fixture
def double() -> Iterator[Double]:
    with Double() as running:
        with Client(running.address) as client:
            client.create(parse_yaml(SPEC))
        running.ground.held["answers"].report = sample()
        yield running


@pytest.fixture
def ground(double: Double) -> Ground:
    return double.ground


@pytest.fixture
def ctl(double: Double) -> Command:
    return Command(double.address)


def test_a_report_says_what_is_evidence_and_what_is_not(ctl: Command) -> None:
    done = ctl("report", "answers")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    # The hypothesis comes first, as text and nothing else.
    assert lines[1] == "hypothesis: the new model helps [red]more[/red]\\x1b[31m"
    for said in (
        "winner: no winner yet (P(best) 0.962 is no evidence)",
        "free of the winner's curse",
        "Each interval holds at every look",
        "ALLOCATION, not evidence",
        "Plain means are biased: adaptive allocation.",
        "helpful 91 %, flagged 0 %",
        "Mean weight must be 1 within 3 standard errors",
        "note: a user may bring several decisions",
        "Decisions follow the shares.",
        "so many rewards are the evidence of one: helpful 3.2",
        "COHORTS, each drawn to all of them as far as they agree.",
    ):
        assert said in done.out
    shown = next(line for line in lines if line.startswith("helpful (up)"))
    assert shown.split() == [
        "helpful",
        "(up)",
        "new",
        "+0.05",
        "[+0.02,",
        "+0.08]",
        "BETTER",
        "exact",
        *shown.split()[8:],
    ]
    assert "0.4 to 0.48" in done.out
    assert "no rewards yet" in next(line for line in lines if line.startswith("flagged (down)"))
    assert "1.010 +- 0.020" in done.out
    hurt = next(line for line in lines if "b\\x1b[1m" in line)
    assert hurt.split()[-1] == "APART"
    assert "APART" not in next(line for line in lines if " free " in line)
    # Effects are told before means, and both before what only steers.
    assert done.out.index("EFFECTS") < done.out.index("MEANS") < done.out.index("ALLOCATION")


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_a_report_fits_the_terminal(ctl: Command, columns: int) -> None:
    done = ctl.program("report", "answers", COLUMNS=str(columns))
    assert done.code == 0
    assert max(map(len, done.out.splitlines())) <= columns
    assert ("METHOD" in done.out) == (columns >= 110)
    assert "PLAIN, BIASED" in done.out
    assert "[+0.02, +0.08]" in done.out


def test_a_mismatch_is_told_before_anything_else(ctl: Command, ground: Ground) -> None:
    held = ground.held["answers"].report
    assert held is not None
    held.sample_ratio.mismatch = True
    held.sample_ratio.message = "decisions do not follow the shares"
    out = ctl("report", "answers").out
    assert out.index("warning: decisions do not follow the shares") < out.index("EFFECTS")


def test_a_report_is_one_json_document(ctl: Command) -> None:
    told = ctl("--json", "report", "answers")
    assert ParseDict(told.document, report_pb2.Report()) == sample()


def test_without_a_report_it_says_so(ctl: Command, ground: Ground) -> None:
    ground.held["answers"].report = None
    done = ctl("report", "answers")
    assert done.code == Exit.NOT_ALLOWED
    assert done.err.count("\n") == 1
    assert ctl("report", "nobody").code == Exit.NOT_FOUND


def test_a_bar_is_full_only_when_it_decides() -> None:
    assert bar(-3.0, 5.0, 10) == ".........."
    assert bar(2.5, 5.0, 10) == "#####....."
    assert bar(4.99, 5.0, 10) == "#########."
    assert bar(5.0, 5.0, 10) == bar(900.0, 5.0, 10) == "##########"
    assert bar(float("inf"), 5.0, 10) == "##########"
