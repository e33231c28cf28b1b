"""Changes by banditctl: shown before, asked for, sent with the etag seen, and read back before success is said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from bandit import errors
from bandit.client import Client
from bandit.rollout.state import State
from bandit.spec.parse import parse_yaml
from tests.double.command import SPEC, Command
from tests.double.ground import Ground
from tests.double.server import Double


@pytest.fixture
def double() -> Iterator[Double]:
    with Double() as running:
        yield running


@pytest.fixture
def ground(double: Double) -> Ground:
    return double.ground


@pytest.fixture
def ctl(double: Double) -> Command:
    return Command(double.address)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "answers.yaml"
    path.write_text(SPEC)
    return path


@pytest.fixture
def running(double: Double) -> str:
    with Client(double.address, actor="somebody") as client:
        client.create(parse_yaml(SPEC))
        client.start("answers")
    double.ground.reallocate("answers", (600_000, 400_000))
    return "answers"


def test_apply_creates_what_the_file_says(ctl: Command, ground: Ground, file: Path) -> None:
    done = ctl("apply", "-f", str(file), "--yes", "--actor", "anna@ops")
    assert (done.code, done.err) == (0, "")
    assert "would be created" in done.out
    assert "arms.new" in done.out
    assert "answers is created" in done.out
    assert ground.held["answers"].experiment.spec == parse_yaml(SPEC)
    assert ground.held["answers"].records[0].actor == "anna@ops"


def test_apply_again_changes_nothing_and_asks_nothing(ctl: Command, ground: Ground, file: Path) -> None:
    ctl("apply", "-f", str(file), "--yes")
    done = ctl("apply", "-f", str(file))
    assert (done.code, done.err) == (0, "")
    assert "nothing to change" in done.out
    assert not ground.seen("Update")


def test_apply_shows_the_effective_difference_and_sends_the_etag_seen(
    ctl: Command, ground: Ground, running: str, file: Path
) -> None:
    seen = ground.held[running].experiment.etag
    file.write_text(SPEC.replace("cap: 0.5", "cap: 0.7"))
    dry = ctl("apply", "-f", str(file), "--dry-run")
    assert dry.code == 0
    assert "arms.new.bounds.cap: 0.5 -> 0.7" in dry.out
    assert not ground.seen("Update")
    done = ctl("apply", "-f", str(file), "--yes")
    assert done.code == 0
    assert "answers is changed" in done.out
    (sent,) = ground.seen("Update")
    assert sent.etag == seen
    assert sent.request_id
    assert ground.held[running].experiment.spec.arms[1].bounds.cap == 0.7


def test_apply_says_when_statistics_begin_anew_and_guardrails_too(
    ctl: Command, running: str, file: Path
) -> None:
    file.write_text(SPEC.replace("sha256:b", "sha256:c"))
    assert "a new epoch begins" in ctl("apply", "-f", str(file), "--dry-run").out
    file.write_text(SPEC.replace("limit: 0.02", "limit: 0.03"))
    assert "the guardrails begin a new attempt" in ctl("apply", "-f", str(file), "--dry-run").out


@pytest.mark.parametrize(
    ("answer", "code", "made"), [("y\n", 0, True), ("n\n", 130, False), ("", 130, False)]
)
def test_apply_asks_on_a_terminal(
    ctl: Command, ground: Ground, file: Path, answer: str, code: int, made: bool
) -> None:
    done = ctl("apply", "-f", str(file), stdin=answer, terminal=True)
    assert done.code == code
    assert "Create answers?" in done.err
    assert ("answers" in ground.held) is made


def test_apply_without_a_terminal_needs_a_yes(ctl: Command, ground: Ground, file: Path) -> None:
    for arguments in (("apply", "-f", str(file)), ("apply", "-f", "-")):
        done = ctl(*arguments, stdin=SPEC)
        assert done.code == 2
        assert "--yes" in done.err
    assert not ground.held


def test_apply_reads_stdin(ctl: Command, ground: Ground) -> None:
    assert ctl("apply", "-f", "-", "--yes", stdin=SPEC).code == 0
    assert "answers" in ground.held
    done = ctl("apply", "-f", "-", "--yes", stdin=SPEC.replace("helpful, kind", "helpfull, kind"))
    assert done.code == 3
    assert "<stdin>:10:" in done.err


def test_apply_with_mistakes_asks_no_server(ctl: Command, ground: Ground, file: Path) -> None:
    file.write_text(SPEC.replace("cap: 0.5", "cap: 1.5").replace("guardrails:", "guardrial:"))
    done = ctl("apply", "-f", str(file), "--yes")
    assert done.code == 3
    assert f"{file}:5:" in done.err
    assert f"{file}:11:1: guardrial" in done.err
    assert not ground.calls


def test_apply_loses_to_whoever_was_faster(ctl: Command, ground: Ground, running: str, file: Path) -> None:
    file.write_text(SPEC.replace("cap: 0.5", "cap: 0.7"))
    ground.after["DryRun"] = lambda: ground.touch(running)
    done = ctl("apply", "-f", str(file), "--yes")
    assert done.code == 5
    assert "changed" in done.err
    assert ground.held[running].experiment.spec == parse_yaml(SPEC)


def test_apply_of_a_name_that_was_taken_meanwhile(ctl: Command, double: Double, file: Path) -> None:
    def faster() -> None:
        with Client(double.address) as client:
            client.create(parse_yaml(SPEC))

    double.ground.after["DryRun"] = faster
    done = ctl("apply", "-f", str(file), "--yes")
    assert done.code == 5
    assert "somebody else" in done.err


def test_success_is_not_said_when_what_is_read_back_differs(
    ctl: Command, double: Double, running: str, file: Path
) -> None:
    def meddle() -> None:
        with Client(double.address) as client:
            client.update(parse_yaml(SPEC.replace("cap: 0.5", "cap: 0.1")))

    file.write_text(SPEC.replace("cap: 0.5", "cap: 0.7"))
    double.ground.after["Update"] = meddle
    done = ctl("apply", "-f", str(file), "--yes")
    assert done.code == 5
    assert "is changed" not in done.out


def test_success_is_not_said_when_the_server_kept_something_else(
    ctl: Command, double: Double, running: str, file: Path
) -> None:
    def lose() -> None:
        held = double.ground.held[running]
        object.__setattr__(held.experiment, "spec", parse_yaml(SPEC))

    file.write_text(SPEC.replace("cap: 0.5", "cap: 0.7"))
    double.ground.after["Update"] = lose
    done = ctl("apply", "-f", str(file), "--yes")
    assert done.code == 1
    assert "differs from what was sent" in done.err
    assert "is changed" not in done.out


def test_apply_as_one_document(ctl: Command, running: str, file: Path) -> None:
    file.write_text(SPEC.replace("cap: 0.5", "cap: 0.7"))
    dry = ctl("--json", "apply", "-f", str(file), "--dry-run").document
    assert (dry["applied"], dry["creates"], dry["new_epoch"]) == (False, False, False)
    assert dry["changes"][0]["path"] == "arms.new.bounds.cap"
    assert "experiment" not in dry
    done = ctl("apply", "-f", str(file), "--yes", "--json").document
    assert done["applied"] is True
    assert done["experiment"]["spec"]["arms"][1]["bounds"]["cap_ppm"] == 700_000


def test_the_life_of_an_experiment(ctl: Command, ground: Ground, file: Path) -> None:
    ctl("apply", "-f", str(file), "--yes")
    for arguments, said, state in (
        (("start", "answers"), "answers is running", State.RUNNING),
        (("pause", "answers", "--reason", "lunch"), "answers is paused", State.PAUSED),
        (("resume", "answers"), "answers is running", State.RUNNING),
        (
            ("promote", "answers", "new", "--yes", "--reason", "it won"),
            "every unit gets new",
            State.CONCLUDED,
        ),
    ):
        done = ctl(*arguments)
        assert (done.code, done.err) == (0, "")
        assert said in done.out
        assert ground.held["answers"].experiment.state is state
    assert [record.reason for record in ground.held["answers"].records[2::2]] == ["lunch", "it won"]
    assert ctl("delete", "answers", "--yes").code == 0
    assert not ground.held


def test_lifecycle_documents_are_experiments(ctl: Command, running: str) -> None:
    assert ctl("--json", "pause", running).document["state"] == "EXPERIMENT_STATE_PAUSED"
    assert ctl("--json", "resume", running).document["name"] == "experiments/answers"
    assert ctl("--json", "promote", running, "new", "--yes").document["promoted_arm"] == "new"
    assert ctl("--json", "delete", running, "--yes").document == {
        "name": "experiments/answers",
        "deleted": True,
    }


@pytest.mark.parametrize("arguments", [("delete", "answers"), ("promote", "answers", "new")])
def test_what_cannot_be_undone_is_asked_for(
    ctl: Command, ground: Ground, running: str, arguments: tuple[str, ...]
) -> None:
    ctl("pause", running)
    before = ground.held[running].experiment
    assert ctl(*arguments).code == 2
    refused = ctl(*arguments, stdin="n\n", terminal=True)
    assert refused.code == 130
    assert "nothing was changed" in refused.err
    assert ground.held[running].experiment == before
    assert ctl(*arguments, stdin="y\n", terminal=True).code == 0


@pytest.mark.parametrize(
    "arguments", [("delete", "answers", "--yes"), ("promote", "answers", "new", "--yes")]
)
def test_what_cannot_be_undone_is_done_to_what_was_seen(
    ctl: Command, ground: Ground, running: str, arguments: tuple[str, ...]
) -> None:
    ctl("pause", running)
    ground.after["Get"] = lambda: ground.touch(running)
    assert ctl(*arguments).code == 5
    assert ground.held[running].experiment.state is State.PAUSED


def test_rollback_says_success_with_a_share_of_0(ctl: Command, ground: Ground, running: str) -> None:
    done = ctl("rollback", running, "new", "--reason", "complaints", "--actor", "anna@ops")
    assert done.code == 0
    assert "its share is 0" in done.out
    assert ground.held[running].allocation.shares_ppm == (1_000_000, 0)
    record = ground.held[running].records[-1]
    assert (record.action, record.actor, record.reason) == ("rolled_back", "anna@ops", "complaints")
    document = ctl("--json", "clear-rollback", running, "new").document
    assert document["arms"][1]["attempt"] == 2


def test_rollback_as_a_document_shows_the_status(ctl: Command, running: str) -> None:
    document = ctl("--json", "rollback", running, "new", "--reason", "complaints").document
    assert document["arms"][1]["share_ppm"] == 0
    assert document["arms"][1]["state"]["rollback"]["reason"] == "complaints"


def test_rollback_waits_until_the_share_is_0(ctl: Command, ground: Ground, running: str) -> None:
    ground.stuck_ppm = 400_000
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        ground.after["Status"] = look
        if looks == 3:
            ground.stuck_ppm = 0

    ground.after["Status"] = look
    assert ctl("rollback", running, "new", "--reason", "x").code == 0
    assert looks == 4


def test_rollback_without_effect_is_no_success(ctl: Command, ground: Ground, running: str) -> None:
    ground.stuck_ppm = 1
    done = ctl("rollback", running, "new", "--reason", "x", "--timeout", "0.5")
    assert done.code == 7
    assert "still 1 ppm" in done.err
    assert done.out == ""


def test_rollback_needs_a_reason(ctl: Command, ground: Ground, running: str) -> None:
    assert ctl("rollback", running, "new").code == 2
    assert not ground.seen("RollBack")


def test_a_change_that_somebody_undid_is_no_success(ctl: Command, double: Double, running: str) -> None:
    def undo() -> None:
        with Client(double.address) as client:
            client.resume(running)

    double.ground.after["Pause"] = undo
    done = ctl("pause", running)
    assert done.code == 5
    assert "it is running now" in done.err
    assert done.out == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("start", "answers"), "must be draft"),
        (("resume", "answers"), "must be paused"),
        (("rollback", "answers", "old", "--reason", "x"), "is the control"),
        (("clear-rollback", "answers", "new"), "neither rolled back nor held"),
        (("delete", "answers", "--yes"), "is running"),
    ],
)
def test_what_the_state_forbids(ctl: Command, running: str, arguments: tuple[str, ...], said: str) -> None:
    done = ctl(*arguments)
    assert (done.code, done.out) == (6, "")
    assert said in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("start", "nowhere"),
        ("pause", "nowhere"),
        ("resume", "nowhere"),
        ("rollback", "nowhere", "new", "--reason", "x"),
        ("rollback", "answers", "newer", "--reason", "x"),
        ("clear-rollback", "answers", "newer"),
        ("promote", "answers", "newer", "--yes"),
        ("delete", "nowhere", "--yes"),
    ],
)
def test_what_is_not_there(ctl: Command, running: str, arguments: tuple[str, ...]) -> None:
    done = ctl(*arguments)
    assert (done.code, done.out) == (4, "")
    assert "nowhere" in done.err or "newer" in done.err


def test_a_write_whose_answer_was_lost_is_sent_again_under_its_id(
    ctl: Command, ground: Ground, running: str
) -> None:
    ground.fail("RollBack", "lost", grpc.StatusCode.UNAVAILABLE)
    assert ctl("rollback", running, "new", "--reason", "x").code == 0
    assert len({request.request_id for request in ground.seen("RollBack")}) == 1
    assert [record.action for record in ground.held[running].records].count("rolled_back") == 1


def test_a_store_that_is_away_is_said_with_when_to_try_again(
    ctl: Command, ground: Ground, running: str
) -> None:
    ground.fail("Pause", *[errors.StoreUnavailable("the store does not answer")] * 4)
    done = ctl("pause", running)
    assert done.code == 7
    assert "try again in 1.5 s" in done.err


@pytest.mark.parametrize("no_color", ["", "1"])
def test_the_difference_is_coloured_unless_told_not_to(
    ctl: Command, running: str, file: Path, no_color: str
) -> None:
    file.write_text(SPEC.replace("cap: 0.5", "cap: 0.7"))
    done = ctl.typed("apply", "-f", str(file), "--dry-run", NO_COLOR=no_color)
    assert done.code == 0
    assert ("\x1b[32m0.7\x1b[0m" in done.out) is not bool(no_color)
    assert ("0.5 -> 0.7" in done.out) is bool(no_color)
