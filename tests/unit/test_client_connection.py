"""The client over a real channel: every call, what is sent again, and how each failure comes back as its error."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from bandit import errors
from bandit.client import Client, ServerUnavailable, UnexpectedAnswer
from bandit.client.connection import split_tokens
from bandit.client.errors import DETAILS_KEY
from bandit.client.rewards import Reported, report
from bandit.spec.model import ExperimentSpec
from bandit.spec.parse import parse_yaml
from bandit.v1 import decision_service_pb2 as dpb
from bandit.v1 import experiment_pb2 as pb
from bandit.v1 import reward_service_pb2 as rpb
from tests.double.ground import Ground
from tests.double.server import Double
from tests.double.strangers import odd, rude

SPEC = parse_yaml(
    """
experiment: answers
arms: [{name: old, control: true, digest: a}, {name: new, digest: b}]
metrics: [{name: helpful, kind: bernoulli, direction: maximize}]
objective: [{metric: helpful}]
"""
)


def named(name: str) -> ExperimentSpec:
    return SPEC.model_copy(update={"experiment": name})


@pytest.fixture
def double() -> Iterator[Double]:
    with Double() as running:
        yield running


@pytest.fixture
def ground(double: Double) -> Ground:
    return double.ground


@pytest.fixture
def client(double: Double) -> Iterator[Client]:
    with Client(double.address, timeout_s=5.0, actor="anna@ops") as connected:
        yield connected


def test_the_life_of_an_experiment(client: Client, ground: Ground) -> None:
    made = client.create(SPEC)
    assert (made.name, made.state) == ("experiments/answers", pb.EXPERIMENT_STATE_DRAFT)
    assert client.dry_run(SPEC).etag == made.etag
    assert client.start("answers", made.etag).state == pb.EXPERIMENT_STATE_RUNNING
    ground.reallocate("answers", (500_000, 500_000))
    assert client.decide("answers", "u1").propensity == 0.5
    assert client.pause("answers", "lunch").state == pb.EXPERIMENT_STATE_PAUSED
    assert client.resume("answers").state == pb.EXPERIMENT_STATE_RUNNING
    assert client.roll_back("answers", "new", "complaints").arms[1].rollback.reason == "complaints"
    assert client.clear_rollback("answers", "new").arms[1].attempt == 2
    wider = SPEC.model_copy(update={"hypothesis": "it helps"})
    assert [change.path for change in client.update(wider).changes] == ["hypothesis"]
    assert client.promote("answers", "new", "it won").promoted_arm == "new"
    assert client.status("answers").allocation.shares_ppm == [0, 1_000_000]
    actions = [record.action for record in client.audit("answers", page_size=3)]
    assert actions == [
        "promoted",
        "updated",
        "rollback_cleared",
        "rolled_back",
        "resumed",
        "paused",
        "started",
        "created",
    ]
    client.delete("answers")
    with pytest.raises(errors.NotFound):
        client.get("answers")


def test_writes_say_who_asks_and_carry_a_fresh_request_id(client: Client, ground: Ground) -> None:
    client.create(SPEC)
    client.start("answers")
    client.pause("answers")
    writes = [ground.seen(call)[0] for call in ("Create", "Start", "Pause")]
    assert [write.actor for write in writes] == ["anna@ops"] * 3
    assert len({write.request_id for write in writes}) == 3
    assert all(1 <= len(write.request_id) <= 128 for write in writes)


def test_a_write_whose_answer_was_lost_has_one_effect(client: Client, ground: Ground) -> None:
    client.create(SPEC)
    ground.fail("Start", "lost", "lost")
    assert client.start("answers").state == pb.EXPERIMENT_STATE_RUNNING
    tries = ground.seen("Start")
    assert len(tries) == 3
    assert len({request.request_id for request in tries}) == 1
    assert [record.action for record in client.audit("answers")] == ["started", "created"]


def test_unavailable_is_tried_four_times(client: Client, ground: Ground) -> None:
    client.create(SPEC)
    ground.fail("Decide", *[grpc.StatusCode.UNAVAILABLE] * 3)
    assert client.decide("answers", "u1").arm == "old"
    assert len(ground.seen("Decide")) == 4
    ground.fail("Decide", *[grpc.StatusCode.UNAVAILABLE] * 4)
    with pytest.raises(ServerUnavailable):
        client.decide("answers", "u1")
    assert len(ground.seen("Decide")) == 8


@pytest.mark.parametrize(
    "failure",
    [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, errors.Stale("moved on"), errors.Overloaded("full")],
)
def test_what_may_not_pass_is_not_tried_again(client: Client, ground: Ground, failure: Any) -> None:
    client.create(SPEC)
    ground.fail("Start", failure)
    with pytest.raises(errors.BanditError):
        client.start("answers")
    assert len(ground.seen("Start")) == 1


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidArgument.at("spec.alpha", "7 is not allowed; write at most 0.5"),
        errors.InvalidArgument("two", violations=[errors.Violation("a", "b"), errors.Violation("c", "d")]),
        errors.NotFound("no such experiment", experiment="x"),
        errors.AlreadyExists("taken"),
        errors.Stale("moved on", reason="ETAG"),
        errors.NotAllowed("it is paused", reason="WRONG_STATE", state="paused"),
        errors.StoreUnavailable("the store is away"),
        errors.Overloaded("too many streams"),
        errors.CorruptStored("cannot be read"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_come_back_as_they_were_raised(
    client: Client, ground: Ground, error: errors.BanditError
) -> None:
    ground.fail("Get", *[error] * 4)
    with pytest.raises(errors.BanditError) as caught:
        client.get("answers")
    assert type(caught.value) is type(error)
    assert str(caught.value) == str(error)
    assert caught.value.reason == error.reason
    assert error.metadata.items() <= caught.value.metadata.items()
    if isinstance(error, errors.InvalidArgument):
        assert isinstance(caught.value, errors.InvalidArgument)
        assert caught.value.violations == error.violations
    if isinstance(error, errors.StoreUnavailable | errors.Overloaded):
        assert caught.value.metadata["retry_delay_s"] == "1.5"


def test_every_error_of_the_tree_has_its_way_back() -> None:
    told = {error for error in errors.BanditError.__subclasses__() if error.__module__ == "bandit.errors"}
    # One reward's refusal is an item of the reply, not the end of a call.
    assert told - {errors.Rejected} == {
        errors.InvalidArgument,
        errors.NotFound,
        errors.AlreadyExists,
        errors.Stale,
        errors.NotAllowed,
        errors.StoreUnavailable,
        errors.CorruptStored,
        errors.Overloaded,
    }


def test_no_answer_in_time(double: Double, ground: Ground) -> None:
    ground.fail("Get", "silent")
    with Client(double.address, timeout_s=0.3) as client, pytest.raises(ServerUnavailable) as caught:
        client.get("answers")
    assert caught.value.reason == "DEADLINE_EXCEEDED"
    assert "0.3 s" in str(caught.value)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def test_no_server() -> None:
    began = time.monotonic()
    port = closed_port()
    with Client(f"127.0.0.1:{port}", timeout_s=20.0) as client, pytest.raises(ServerUnavailable) as caught:
        client.get("answers")
    assert time.monotonic() - began < 10
    assert f"127.0.0.1:{port}" in str(caught.value)
    assert "refused" in str(caught.value)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00" * 64, b""])
def test_something_that_is_no_grpc_server(answer: bytes) -> None:
    with (
        rude(answer) as address,
        Client(address, timeout_s=2.0) as client,
        pytest.raises((ServerUnavailable, UnexpectedAnswer)) as caught,
    ):
        client.get("answers")
    assert address in str(caught.value)


def test_a_server_of_another_service() -> None:
    with (
        odd(None) as address,
        Client(address) as client,
        pytest.raises(UnexpectedAnswer, match="does not know this call"),
    ):
        client.get("answers")


def test_a_server_that_answers_bytes_of_another_language() -> None:
    with (
        odd(lambda context: b"\xff\xff\xff") as address,
        Client(address) as client,
        pytest.raises(UnexpectedAnswer, match="INTERNAL"),
    ):
        client.get("answers")


def test_details_that_cannot_be_read_are_left_out() -> None:
    def refuse(context: grpc.ServicerContext) -> bytes:
        context.set_trailing_metadata(((DETAILS_KEY, b"\xff\xff\xff"),))
        context.abort(grpc.StatusCode.NOT_FOUND, "nowhere")

    with (
        odd(refuse) as address,
        Client(address) as client,
        pytest.raises(errors.NotFound, match=r"^nowhere$"),
    ):
        client.get("answers")


def test_too_few_results_are_no_answer() -> None:
    with (
        odd(lambda context: b"") as address,
        Client(address) as client,
        pytest.raises(UnexpectedAnswer, match="0 results for 1 rewards"),
    ):
        client.report_reward(b"t", "helpful", 1.0)


def test_pages_are_read_to_the_end(client: Client, ground: Ground) -> None:
    names = [f"e{index}" for index in range(7)]
    for name in reversed(names):
        client.create(named(name))
    assert [each.spec.experiment for each in client.experiments(page_size=3)] == names
    assert [request.page_token for request in ground.seen("List")] == ["", "e2", "e5"]


def test_a_page_that_leads_to_itself_ends_with_an_error() -> None:
    def same(context: grpc.ServicerContext) -> bytes:
        return b"\x12\x01x"  # next_page_token: "x"

    with (
        odd(same) as address,
        Client(address) as client,
        pytest.raises(UnexpectedAnswer, match="again and again"),
    ):
        list(client.experiments())


def test_rewards_are_counted_once_and_sent_in_batches(client: Client, ground: Ground) -> None:
    client.create(SPEC)
    client.start("answers")
    reply = client.decide_batch("answers", [f"u{index}" for index in range(1500)])
    tokens = split_tokens(reply)
    assert len(set(tokens)) == 1500
    rewards = [rpb.RewardEvent(token=token, metric="helpful", value=1.0) for token in tokens]
    ground.fail("Rewards", "lost")
    results = client.report_rewards(rewards, wait=True)
    assert [len(request.events) for request in ground.seen("Rewards")] == [1000, 1000, 500]
    counted = [rpb.REWARD_OUTCOME_APPLIED, rpb.REWARD_OUTCOME_DUPLICATE]
    assert all(result.outcome in counted for result in results)
    assert client.status("answers").rewards.applied == 1500
    assert client.report_reward(tokens[0], "helpful", 0.0, wait=True).outcome == rpb.REWARD_OUTCOME_CONFLICT
    assert client.report_reward(tokens[0], "nonsense", 0.0).reason == "UNKNOWN_METRIC"
    assert client.report_reward(b"forged", "helpful", 0.0).reason == "BAD_TOKEN"


def test_rewards_say_how_safe_the_least_safe_batch_is(client: Client, ground: Ground) -> None:
    client.create(SPEC)
    client.start("answers")
    tokens = split_tokens(client.decide_batch("answers", [f"u{index}" for index in range(1001)]))
    rewards = [rpb.RewardEvent(token=token, metric="helpful", value=1.0) for token in tokens]
    for asked, safest, reached in (
        ("", rpb.DURABILITY_FSYNCED, "memory"),
        ("replicated", rpb.DURABILITY_FSYNCED, "replicated"),
        ("fsynced", rpb.DURABILITY_FSYNCED, "fsynced"),
        ("fsynced", rpb.DURABILITY_MEMORY, "memory"),
    ):
        ground.safest = safest
        reported = client.report_rewards(rewards, durability=asked)
        assert (len(reported), reported.durability) == (1001, reached)
    wanted = [request.durability for request in ground.seen("Rewards")]
    assert wanted == [0, 0, 2, 2, 3, 3, 3, 3]
    assert (
        client.report_rewards([rpb.RewardEvent(token=b"forged", metric="helpful", value=1)]).durability == ""
    )
    assert Reported().durability == ""
    with pytest.raises(errors.InvalidArgument, match="'disk' is none; give memory, replicated, fsynced"):
        client.report_rewards(rewards, durability="disk")


def test_the_least_safe_batch_decides() -> None:
    """Also of calls that reached different levels, in whatever order."""
    answers = [3, 1, 0, 2]

    def send(request: rpb.ReportRewardsRequest) -> rpb.ReportRewardsResponse:
        results = [rpb.RewardResult()] * len(request.events)
        return rpb.ReportRewardsResponse(results=results, durability=answers.pop(0))  # type: ignore[arg-type]

    many = [rpb.RewardEvent()] * 4000
    assert report(send, many, wait=False, durability="", target="x").durability == "memory"


def test_what_a_stopping_server_ended_is_sent_again(client: Client, ground: Ground) -> None:
    """It ends calls that it has not begun yet as CANCELLED; each has its effect once all the same."""
    client.create(SPEC)
    client.start("answers")
    for call, repeat in (
        ("Decide", lambda: client.decide("answers", "u1")),
        ("Update", lambda: client.update(SPEC)),
        ("Rewards", lambda: client.report_reward(client.decide("answers", "u2").token, "helpful", 1.0)),
    ):
        before = len(ground.seen(call))
        ground.fail(call, grpc.StatusCode.CANCELLED)
        repeat()
        assert len(ground.seen(call)) == before + 2


def test_tokens_of_decisions_that_are_not_counted() -> None:
    assert split_tokens(dpb.DecideBatchResponse(arm_indexes=b"\0\0", token_size=65)) == [b"", b""]


def test_names_are_checked_before_anything_is_sent(client: Client, ground: Ground) -> None:
    for call in (
        lambda: client.get("No Name"),
        lambda: client.decide("a/b", "u"),
        lambda: client.roll_back("answers", "arms/new", "x"),
    ):
        with pytest.raises(errors.InvalidArgument):
            call()
    assert not ground.calls


def test_watching_shows_the_present_and_each_change(client: Client, ground: Ground) -> None:
    client.create(SPEC)
    watched = client.watch("answers", duration_s=30.0)
    assert next(watched).state == pb.EXPERIMENT_STATE_DRAFT
    client.start("answers")
    assert next(watched).state == pb.EXPERIMENT_STATE_RUNNING
    ground.breaks[3] = grpc.StatusCode.UNAVAILABLE
    client.pause("answers")
    assert next(watched).state == pb.EXPERIMENT_STATE_PAUSED
    with pytest.raises(ServerUnavailable):
        next(watched)


def test_watching_ends_by_itself_and_is_refused_for_what_is_not_there(client: Client) -> None:
    client.create(SPEC)
    assert len(list(client.watch("answers", duration_s=0.5))) == 1
    with pytest.raises(errors.NotFound):
        next(client.watch("nowhere"))


def test_watching_a_server_that_says_nothing_is_no_quiet_end(client: Client, ground: Ground) -> None:
    client.create(SPEC)
    ground.fail("Watch", "silent")
    with pytest.raises(ServerUnavailable):
        next(client.watch("answers", duration_s=0.3))


def test_the_client_loads_no_numbers_library() -> None:
    code = (
        "import sys, bandit.client, bandit.client.convert\n"
        "print(*{'numpy', 'scipy', 'numba'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == ""
