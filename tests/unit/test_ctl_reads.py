"""What banditctl shows: everything an operator asks, at any width, in a pipe and as one JSON document."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from google.protobuf.json_format import ParseDict
from hypothesis import given
from hypothesis import strategies as st

from bandit.client import Client
from bandit.client.convert import spec_from_proto
from bandit.ctl.document import document, dumps
from bandit.ctl.text import PPM, age, number, percent, plain
from bandit.spec.parse import parse_yaml
from bandit.v1 import experiment_pb2 as pb
from tests.double.command import SPEC, Command
from tests.double.ground import Ground
from tests.double.server import Double
from tests.double.views import sample_verdict

COLOUR = re.compile(r"\x1b\[[0-9;]*[34]\d(;|m)")
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@pytest.fixture(scope="module")
def double() -> Iterator[Double]:
    with Double() as running:
        with Client(running.address, actor="anna@ops") as client:
            client.create(parse_yaml(SPEC))
            client.start("answers")
            running.ground.reallocate("answers", (600_000, 400_000), "evidence: new is better")
            client.roll_back("answers", "new", "complaints about [red]colours[/red]")
            tokens = [client.decide("answers", f"u{index}").token for index in range(3)]
            client.report_reward(tokens[0], "helpful", 1.0)
        held = running.ground.held["answers"]
        held.warnings.append("the learner is [bold]late[/bold] \x1b[31mand red")
        for outcome in (pb.OUTCOME_FAIL, pb.OUTCOME_PASS, pb.OUTCOME_INCONCLUSIVE, pb.OUTCOME_NO_DATA):
            held.verdicts.append(sample_verdict("new", outcome, "5.91 % of 812 rewards, 2 % are allowed"))
        yield running


@pytest.fixture
def ground(double: Double) -> Ground:
    return double.ground


@pytest.fixture
def ctl(double: Double) -> Command:
    return Command(double.address)


def test_status_says_everything_an_operator_asks(ctl: Command) -> None:
    done = ctl("status", "answers")
    assert (done.code, done.err) == (0, "")
    for said in (
        "experiments/answers  RUNNING  epoch 1  allocation 4",
        "new rolled back",
        "etag 7-3",
        "P(best) and loss steer the allocation; they are not evidence.",
        "ROLLED BACK",
        "by anna@ops: complaints about [red]colours[/red]",
        "6.50 / 5.99",
        "0.0591",
        "5.91 % of 812 rewards, 2 % are allowed",
        "3 exposures, 1 reward counted, 0 duplicate, 0 conflicting, 0 late, 0 rejected",
        "warning: the learner is [bold]late[/bold] \\x1b[31mand red",
    ):
        assert said in done.out
    lines = done.out.splitlines()
    head = next(line for line in lines if line.startswith("ARM") and "SHARE" in line)
    assert head.split() == ["ARM", "SHARE", "FLOOR..CAP", "EXPOSURES", "P(best)", "EXP.", "LOSS", "STATE"]
    old = next(line for line in lines if line.startswith("old (control)"))
    assert old.split() == ["old", "(control)", "100", "%", "5.00..100", "%", "3", "1.000", "0", "-"]
    outcomes = [
        line.split()[2]
        for line in lines
        if line.startswith("new  ") and " flags" not in line and "errors" in line
    ]
    assert outcomes == ["FAIL", "PASS", "INCONCLUSIVE", "NO_DATA"]


def test_nothing_is_made_up_before_the_first_judgement() -> None:
    with Double() as other:
        with Client(other.address) as client:
            client.create(parse_yaml(SPEC))
        held = other.ground.held["answers"]
        held.allocation = replace(held.allocation, time_ms=0)
        out = Command(other.address)("status", "answers").out
    assert "evaluated never" in out
    assert "95 % INTERVAL" not in out
    row = next(line for line in out.splitlines() if line.startswith("new "))
    assert row.split()[-3:] == ["-", "-", "-"]


def test_a_pipe_gets_no_escapes_and_nothing_cut(ctl: Command) -> None:
    done = ctl.program("status", "answers")
    assert done.code == 0
    assert "\x1b" not in done.out
    assert all(line == line.rstrip() for line in done.out.splitlines())
    row = next(line for line in done.out.splitlines() if "ROLLED BACK" in line)
    assert row.endswith("complaints about [red]colours[/red]")


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_terminal_is_never_overrun(ctl: Command, columns: int) -> None:
    done = ctl.typed("status", "answers", columns=columns)
    assert done.code == 0
    assert COLOUR.search(done.out)
    shown = [ESCAPE.sub("", line) for line in done.out.splitlines()]
    assert max(map(len, shown)) <= columns
    whole = re.sub(r"\s+", " ", " ".join(shown))
    assert "complaints about [red]colours[/red]" in whole
    assert "5.91 % of 812 rewards, 2 % are allowed" in whole


def test_no_color_is_heard(ctl: Command) -> None:
    for arguments in (("status", "answers"), ("audit", "answers"), ("list",)):
        done = ctl.typed(*arguments, NO_COLOR="1")
        assert done.code == 0
        assert not COLOUR.search(done.out)


def test_the_order_of_arms_and_exact_0_and_100(ctl: Command) -> None:
    assert [percent(ppm) for ppm in (0, 1, 49, 5000, 480_000, 999_999, PPM)] == [
        "0 %",
        "0.0001 %",
        "0.0049 %",
        "0.50 %",
        "48.00 %",
        "99.9999 %",
        "100 %",
    ]


@given(st.integers(1, PPM - 1))
def test_a_share_between_is_never_shown_as_0_or_100(ppm: int) -> None:
    shown = float(percent(ppm).split()[0])
    assert 0 < shown < 100
    assert shown == pytest.approx(ppm / 10_000, abs=0.005)


@given(st.text())
def test_no_text_can_move_the_cursor(text: str) -> None:
    shown = plain(text)
    assert shown.isprintable()
    assert plain(shown) == shown


def test_numbers_for_people() -> None:
    seen = [0.0, 0.05912, 2500.0, 123_456.0, 1e-9, 3e9, float("inf"), float("nan")]
    assert [number(value) for value in seen] == [
        "0",
        "0.05912",
        "2500",
        "123,456",
        "1.000e-09",
        "3.000e+09",
        "inf",
        "not a number",
    ]
    assert [age(seconds) for seconds in (-60, -1, 0.4, 119, 120, 7200, 10 * 86400)] == [
        "60 s ahead of this machine's clock",
        "0 s ago",
        "0 s ago",
        "119 s ago",
        "2 min ago",
        "2 h ago",
        "10 d ago",
    ]


def test_list_shows_each_experiment(ctl: Command) -> None:
    done = ctl("list")
    assert done.code == 0
    head, row = done.out.splitlines()
    assert head.split()[:4] == ["NAME", "STATE", "EPOCH", "ARMS"]
    assert row.split()[:5] == ["answers", "RUNNING", "1", "2", "new"]
    assert row.endswith("the new model helps more")


def test_an_empty_list() -> None:
    with Double() as empty:
        ctl = Command(empty.address)
        assert ctl("list").out == "no experiments\n"
        assert ctl("--json", "list").document == {"experiments": []}


def test_audit_shows_who_what_when_and_why(ctl: Command) -> None:
    done = ctl("audit", "answers")
    assert done.code == 0
    rows = done.out.splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["3", "2", "1"]
    assert "anna@ops" in rows[0]
    assert "rolled_back" in rows[0]
    assert "old 100 %, new 0 %" in rows[0]
    assert rows[0].endswith("complaints about [red]colours[/red]")
    assert "DRAFT -> RUNNING" in rows[1]
    assert len(ctl("audit", "answers", "-n", "2").out.splitlines()) == 3


def test_get_prints_the_file_that_was_applied(ctl: Command) -> None:
    done = ctl("get", "answers")
    assert done.code == 0
    assert done.out.startswith("# experiments/answers: running, epoch 1, etag 7-3\n")
    assert parse_yaml(done.out) == parse_yaml(SPEC)
    assert ctl("get", "experiments/answers").out == done.out


def test_documents_are_the_protos_by_their_own_names(ctl: Command, double: Double) -> None:
    with Client(double.address) as client:
        status, experiment = client.status("answers"), client.get("answers")
        records = list(client.audit("answers"))
    shown = ctl("--json", "status", "answers").document
    assert ParseDict(shown, pb.ExperimentStatus()) == status
    assert shown["exposures"] == 3
    assert list(shown)[:5] == ["name", "state", "epoch", "allocation", "arms"]
    assert shown["arms"][1]["share_ppm"] == 0
    assert shown["verdicts"][0]["outcome"] == "OUTCOME_FAIL"
    for arguments in (("get", "answers", "-o", "json"), ("get", "answers", "--json")):
        document = ctl(*arguments).document
        assert ParseDict(document, pb.Experiment()) == experiment
        assert spec_from_proto(ParseDict(document["spec"], experiment.spec)) == parse_yaml(SPEC)
    assert ParseDict(ctl("list", "--json").document["experiments"][0], pb.Experiment()) == experiment
    shown = ctl("audit", "answers", "--json").document["records"]
    assert [ParseDict(each, pb.AuditRecord()) for each in shown] == records


def test_documents_hold_what_json_cannot() -> None:
    status = pb.ExperimentStatus(name="experiments/ü", exposures=2**53, log_entries_behind=-1)
    status.arms.add(arm="a", p_best=float("nan"), expected_loss=float("inf"))
    again = ParseDict(document(status), pb.ExperimentStatus())
    assert again.exposures == 2**53
    assert '"exposures": 9007199254740992' in dumps(document(status))
    assert '"p_best": "NaN"' in dumps(document(status))
    assert again.arms[0].expected_loss == float("inf")


def test_commands_without_a_server_name_the_default(ctl: Command) -> None:
    assert "127.0.0.1:50061" in ctl("--help").out
    assert "BANDITCTL_SERVER" in ctl("--help").out


def test_the_shared_options_may_be_written_behind_too(ctl: Command) -> None:
    elsewhere = Command("127.0.0.1:1")
    assert elsewhere("list", "--server", ctl.server).code == 0
    assert elsewhere("--server", ctl.server, "list").code == 0
    assert ctl("list", "--server", "127.0.0.1:1").code == 7
