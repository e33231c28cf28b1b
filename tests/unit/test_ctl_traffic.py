"""Deciding and rewarding by hand: tokens as text and back, what became of each reward, honest exit codes."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit.client import Client
from bandit.ctl.text import token_bytes, token_text
from bandit.errors import InvalidArgument
from bandit.spec.parse import parse_yaml
from bandit.v1 import reward_service_pb2 as rpb
from tests.double.command import SPEC, Command
from tests.double.ground import Ground
from tests.double.server import Double


@pytest.fixture
def double() -> Iterator[Double]:
    with Double() as running:
        with Client(running.address) as client:
            client.create(parse_yaml(SPEC + "rewards_without_token: true\n"))
            client.start("answers")
        running.ground.reallocate("answers", (600_000, 400_000))
        yield running


@pytest.fixture
def ground(double: Double) -> Ground:
    return double.ground


@pytest.fixture
def ctl(double: Double) -> Command:
    return Command(double.address)


@pytest.fixture
def token(ctl: Command) -> str:
    text: str = ctl("--json", "decide", "answers", "u1").document["token"]
    return text


def test_a_decision_for_people(ctl: Command, ground: Ground) -> None:
    done = ctl("decide", "answers", "u1", "-a", "plan=pro", "-a", "empty=")
    assert (done.code, done.err) == (0, "")
    said, token = done.out.splitlines()
    assert re.fullmatch(
        r"(old  propensity 0\.6|new  propensity 0\.4)  assigned  epoch 1  allocation 3  fresh state  counted",
        said,
    )
    assert re.fullmatch(r"token [A-Za-z0-9_-]{87}", token)
    assert dict(ground.seen("Decide")[0].attributes) == {"plan": "pro", "empty": ""}


def test_a_decision_as_a_document(ctl: Command) -> None:
    document = ctl("--json", "decide", "answers", "u1").document
    assert document["reason"] == "DECISION_REASON_ASSIGNED"
    assert document["arm"] in ("old", "new")
    assert document["counted"] is True
    assert len(token_bytes(document["token"])) == 65


def test_many_units_are_counted_by_arm(ctl: Command, ground: Ground) -> None:
    done = ctl("decide", "answers", "unit", "-n", "20000")
    assert (done.code, done.err) == (0, "")
    assert "20,000 units of answers: assigned" in done.out
    rows = {row.split()[0]: row.split() for row in done.out.splitlines()[1:]}
    assert sum(int(row[1].replace(",", "")) for row in rows.values()) == 20_000
    # 20000 draws at 0.6: sd 69; 6 of them fail by chance once in a billion.
    assert int(rows["old"][1].replace(",", "")) == pytest.approx(12_000, abs=416)
    assert (rows["old"][4], rows["new"][4]) == ("0.6", "0.4")
    assert sorted(len(request.units) for request in ground.seen("DecideBatch")) == [10_000, 10_000]
    assert ground.seen("DecideBatch")[0].units[:2] == ["unit-1", "unit-2"]


def test_many_units_as_one_document(ctl: Command) -> None:
    document = ctl("--json", "decide", "answers", "unit", "-n", "50").document
    decisions = document["decisions"]
    assert [each["unit"] for each in decisions] == [f"unit-{index}" for index in range(1, 51)]
    assert sum(document["arms"].values()) == 50
    again = ctl("--json", "reward", "helpful", "1", "--token", decisions[7]["token"], "--wait").document
    assert again["outcome"] == "REWARD_OUTCOME_APPLIED"


def test_a_reward_by_token(ctl: Command, ground: Ground, token: str) -> None:
    for arguments, code, said in (
        (("--wait",), 0, "applied: it is counted"),
        (("--wait",), 0, "duplicate: it was counted before, with the same value"),
        ((), 0, "accepted: it is in the log and will be counted"),
    ):
        done = ctl("reward", "helpful", "1", "--token", token, *arguments)
        assert (done.code, done.out.strip(), done.err) == (code, said, "")
    assert ground.held["answers"].ends["applied"] == 1


@pytest.mark.parametrize(
    ("asked", "safest", "said"),
    [
        ((), rpb.DURABILITY_FSYNCED, ""),
        (("--durability", "memory"), rpb.DURABILITY_FSYNCED, "; it is in the store's memory"),
        (("--durability", "replicated"), rpb.DURABILITY_FSYNCED, "; a replica has it too"),
        (("--durability", "fsynced"), rpb.DURABILITY_FSYNCED, "; it is on the store's disk"),
        (
            ("--durability", "fsynced"),
            rpb.DURABILITY_MEMORY,
            "; it is in the store's memory, though fsynced was asked for: the store cannot tell, or was too slow",
        ),
    ],
)
def test_a_reward_says_how_safe_it_is(
    ctl: Command,
    ground: Ground,
    token: str,
    asked: tuple[str, ...],
    safest: rpb.Durability.ValueType,
    said: str,
) -> None:
    ground.safest = safest
    done = ctl("reward", "helpful", "1", "--token", token, *asked)
    assert (done.code, done.err) == (0, "")
    assert done.out.strip() == "accepted: it is in the log and will be counted" + said
    document = ctl("--json", "reward", "helpful", "1", "--token", token, *asked).document
    reached = min(safest, rpb.Durability.Value(f"DURABILITY_{(asked or ('', 'memory'))[1].upper()}"))
    assert document["durability"] == rpb.Durability.Name(reached)
    refused = ctl("--json", "reward", "nonsense", "1", "--token", token, *asked)
    assert (refused.code, refused.document["durability"]) == (8, "DURABILITY_UNSPECIFIED")


def test_another_durability_is_wrong_usage(ctl: Command, token: str) -> None:
    done = ctl("reward", "helpful", "1", "--token", token, "--durability", "disk")
    assert (done.code, done.out) == (2, "")
    assert "memory" in done.err
    assert "fsynced" in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nonsense", "1"), "rejected: it is not counted (UNKNOWN_METRIC: metric 'nonsense'"),
        (("helpful", "0.5"), "rejected: it is not counted (NOT_BINARY"),
        (("profit", "11"), "rejected: it is not counted (OUT_OF_RANGE"),
        (("helpful", "0", "--wait"), "conflict: it was counted before with another value, which stays"),
    ],
)
def test_a_reward_that_is_not_counted(
    ctl: Command, token: str, arguments: tuple[str, ...], said: str
) -> None:
    ctl("reward", "helpful", "1", "--token", token)
    done = ctl("reward", *arguments, "--token", token)
    assert (done.code, done.out) == (8, "")
    assert said in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("helpful",), "give a VALUE, or --retract to take it back"),
        (("helpful", "1", "--retract"), "--retract takes no VALUE"),
        (("helpful", "1", "--retract", "--correct"), "give one of --correct and --retract"),
    ],
)
def test_an_amendment_is_one_thing(ctl: Command, token: str, arguments: tuple[str, ...], said: str) -> None:
    done = ctl("reward", *arguments, "--token", token)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


def test_an_amendment_reaches_the_server_with_its_order(ctl: Command, ground: Ground, token: str) -> None:
    ctl("reward", "helpful", "1", "--token", token, "--correct", "--sequence", "7")
    ctl("reward", "helpful", "--token", token, "--retract")
    ctl("reward", "helpful", "1", "--token", token)
    correct, retract, report = (request.events[0] for request in ground.seen("Rewards"))
    assert (correct.operation, correct.sequence, correct.value) == (rpb.REWARD_OPERATION_CORRECT, 7, 1.0)
    assert not correct.HasField("event_time")
    assert (retract.operation, retract.HasField("value")) == (rpb.REWARD_OPERATION_RETRACT, False)
    assert retract.event_time.seconds > 1_700_000_000
    assert (report.operation, report.HasField("event_time")) == (rpb.REWARD_OPERATION_UNSPECIFIED, False)


def test_a_forged_or_cut_token_is_not_counted(ctl: Command, token: str) -> None:
    for wrong in (token[:-4], token_text(bytes(65))):
        done = ctl("reward", "helpful", "1", "--token", wrong)
        assert done.code == 8
        assert "BAD_TOKEN" in done.err


def test_a_late_reward(ctl: Command, double: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    late = rpb.RewardResult(outcome=rpb.REWARD_OUTCOME_LATE, reason="LATE", message="2 d old; 1 d is allowed")
    monkeypatch.setattr("tests.double.traffic.Rewards._reward", lambda self, sent, wait: late)
    done = ctl("reward", "helpful", "1", "--token", token_text(bytes(65)))
    assert done.code == 8
    assert done.err == (
        "banditctl: late: it came after the attribution window and is not counted (LATE: 2 d old; 1 d is allowed)\n"
    )


@pytest.mark.parametrize("value", ["-1", "-1.5", "-1e-3", "+2", "3"])
def test_any_number_is_a_value(ctl: Command, ground: Ground, token: str, value: str) -> None:
    done = ctl("reward", "profit", value, "--token", token)
    assert (done.code, done.err) == (0, "")
    assert ground.seen("Rewards")[0].events[0].value == float(value)


@pytest.mark.parametrize(("value", "code"), [("nan", 3), ("inf", 3), ("much", 2)])
def test_what_is_no_number_is_not_sent(
    ctl: Command, ground: Ground, token: str, value: str, code: int
) -> None:
    assert ctl("reward", "profit", value, "--token", token).code == code
    assert not ground.seen("Rewards")


def test_a_reward_without_a_token(ctl: Command, ground: Ground) -> None:
    named = ("--experiment", "answers", "--arm", "new", "--unit", "u9")
    assert ctl("reward", "helpful", "1", *named, "--event-id", "e1", "--wait").out.startswith("applied")
    assert ctl("reward", "helpful", "1", *named, "--event-id", "e1", "--wait").out.startswith("duplicate")
    event = ground.seen("Rewards")[0].events[0]
    assert (event.experiment, event.arm, event.unit) == ("experiments/answers", "new", "u9")
    assert (event.event_id, event.token) == ("e1", b"")


@pytest.mark.parametrize(
    "named",
    [
        (),
        ("--token", "AAAA", "--arm", "new"),
        ("--experiment", "answers"),
        ("--experiment", "answers", "--unit", "u"),
    ],
)
def test_a_reward_names_its_decision_in_one_way(ctl: Command, ground: Ground, named: tuple[str, ...]) -> None:
    done = ctl("reward", "helpful", "1", *named)
    assert done.code == 2
    assert "--token alone" in done.err
    assert not ground.seen("Rewards")


def test_a_reward_as_a_document(ctl: Command, token: str) -> None:
    done = ctl("--json", "reward", "nonsense", "1", "--token", token)
    assert done.code == 8
    assert done.document["outcome"] == "REWARD_OUTCOME_REJECTED"
    assert done.document["reason"] == "UNKNOWN_METRIC"


def test_wrong_attributes_are_usage(ctl: Command, ground: Ground) -> None:
    for pair in ("plan", "=pro"):
        done = ctl("decide", "answers", "u", "-a", pair)
        assert done.code == 2
        assert "write key=value" in done.err
    assert not ground.seen("Decide")


@given(st.binary(max_size=100))
def test_tokens_survive_as_text(token: bytes) -> None:
    assert token_bytes(token_text(token)) == token
    assert token_bytes(base64.b64encode(token).decode()) == token
    assert "=" not in token_text(token)


@pytest.mark.parametrize("text", ["***", "ä", "A", "AA AA", "AAAA\x1b"])
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="base64url"):
        token_bytes(text)


def test_a_session_goes_along_with_one_unit_and_with_many(ctl: Command, ground: Ground) -> None:
    assert ctl("decide", "answers", "u1", "--session", "s1").code == 0
    assert ctl("decide", "answers", "u1", "--session", "s1", "-n", "3").code == 0
    assert ground.seen("Decide")[0].session == "s1"
    assert list(ground.seen("DecideBatch")[0].sessions) == ["s1"] * 3
