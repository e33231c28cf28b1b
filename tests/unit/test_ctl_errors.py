"""Every exit code of banditctl by what leads to it: one sentence on stderr, never a traceback, JSON when asked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from unittest import mock

import grpc
import pytest

from bandit import errors
from bandit.client import Client, ServerUnavailable, UnexpectedAnswer
from bandit.ctl.exits import Exit, code_of
from bandit.ctl.invocation import default_actor
from bandit.spec.parse import parse_yaml
from tests.double.command import SPEC, Command
from tests.double.ground import Ground
from tests.double.server import Double
from tests.double.strangers import odd, rude


@pytest.fixture
def double() -> Iterator[Double]:
    with Double() as running:
        with Client(running.address) as client:
            client.create(parse_yaml(SPEC))
        yield running


@pytest.fixture
def ground(double: Double) -> Ground:
    return double.ground


@pytest.fixture
def ctl(double: Double) -> Command:
    return Command(double.address)


FAILURES: list[tuple[errors.BanditError, Exit]] = [
    (errors.InvalidArgument.at("name", "is wrong"), Exit.INVALID),
    (errors.NotFound("it is not there"), Exit.NOT_FOUND),
    (errors.AlreadyExists("it is taken"), Exit.CONFLICT),
    (errors.Stale("it moved on"), Exit.CONFLICT),
    (errors.NotAllowed("it is paused"), Exit.NOT_ALLOWED),
    (errors.StoreUnavailable("the store is away"), Exit.UNAVAILABLE),
    (errors.Overloaded("too many streams"), Exit.UNAVAILABLE),
    (errors.CorruptStored("it cannot be read"), Exit.UNEXPECTED),
]


@pytest.mark.parametrize(("error", "code"), FAILURES, ids=lambda value: type(value).__name__)
def test_errors_of_the_server(ctl: Command, ground: Ground, error: errors.BanditError, code: Exit) -> None:
    ground.fail("Status", *[error] * 8)
    done = ctl("status", "answers")
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith(f"banditctl: {error}")
    assert len(done.err.splitlines()) == 1
    told = ctl("--json", "status", "answers")
    assert told.code == code
    assert told.document["error"]["exit_code"] == code
    assert told.document["error"]["reason"] == error.reason
    assert told.document["error"]["message"] == str(error)
    assert told.err == done.err


def test_every_error_has_its_exit_code() -> None:
    mapped = {type(error) for error, _ in FAILURES}
    of_library = {kind for kind in errors.BanditError.__subclasses__() if kind.__module__ == "bandit.errors"}
    assert of_library - mapped == {errors.Rejected}
    assert code_of(errors.Rejected("late")) is Exit.NOT_COUNTED
    assert code_of(ServerUnavailable("nobody")) is Exit.UNAVAILABLE
    assert code_of(UnexpectedAnswer("what?")) is Exit.UNEXPECTED


def test_several_violations_are_several_lines(ctl: Command, ground: Ground) -> None:
    wrong = [
        errors.Violation("spec.alpha", "7 is not\nallowed"),
        errors.Violation("spec.arms", "\x1b[31mred"),
    ]
    ground.fail("Status", errors.InvalidArgument("two fields are wrong", violations=wrong))
    done = ctl("--json", "status", "answers")
    assert done.code == 3
    assert done.err.splitlines() == [
        "banditctl: 2 fields are wrong:",
        "  spec.alpha: 7 is not allowed",
        "  spec.arms: \\x1b[31mred",
    ]
    assert done.document["error"]["violations"][0] == {
        "field": "spec.alpha",
        "description": "7 is not\nallowed",
    }


def test_a_text_that_was_cut_does_not_hide_a_violation(ctl: Command, ground: Ground) -> None:
    wrong = [errors.Violation("spec.a", "is wrong"), errors.Violation("", "and 7 more; mend these first")]
    ground.fail("Status", errors.InvalidArgument("spec.a: is wr…\nspec.b: al…", violations=wrong))
    assert ctl("status", "answers").err.splitlines()[1:] == [
        "  spec.a: is wrong",
        "  and 7 more; mend these first",
    ]


def test_text_of_a_server_is_one_line_and_moves_nothing(ctl: Command, ground: Ground) -> None:
    ground.fail("Status", errors.NotFound("a\nb\x1b[2Jc"))
    assert ctl("status", "answers").err == "banditctl: a b\\x1b[2Jc\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("stauts", "x"), "did you mean status?"),
        (("frobnicate",), "commands are validate, rehearse, evaluate, apply"),
        (("status",), "Missing argument 'NAME'"),
        (("status", "a", "b"), "unexpected extra argument"),
        (("status", "a", "--frob"), "No such option"),
        (("--server", "nowhere", "list"), "'nowhere' is no address; write host:port"),
        (("--server", "host:0", "list"), "is no address"),
        (("--server", "host:99999", "list"), "is no address"),
        (("--timeout", "0", "list"), "--timeout"),
        (("--timeout", "soon", "list"), "--timeout"),
        (("--actor", "", "list"), "--actor"),
        (("--actor", "x" * 129, "list"), "--actor"),
        (("apply",), "Missing option '-f'"),
        (("apply", "-f", "/nowhere/x.yaml"), "does not exist"),
        (("decide", "answers", "u", "-n", "0"), "-n"),
        (("completion", "tcsh"), "tcsh"),
    ],
)
def test_wrong_usage_is_one_sentence(
    ctl: Command, ground: Ground, arguments: tuple[str, ...], said: str
) -> None:
    before = len(ground.calls)
    done = ctl(*arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert done.err.startswith("banditctl: ")
    assert len(done.err.splitlines()) == 1
    assert "--help`" in done.err
    assert len(ground.calls) == before
    told = ctl("--json", *arguments)
    assert (told.code, told.err) == (2, done.err)
    assert told.document["error"]["exit_code"] == 2
    assert done.err == f"banditctl: {told.document['error']['message']}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("get", "No Name"),
        ("status", "../x"),
        ("start", ""),
        ("rollback", "answers", "arms/new", "--reason", "x"),
        ("decide", "Answers", "u"),
    ],
)
def test_wrong_names_are_not_sent(ctl: Command, ground: Ground, arguments: tuple[str, ...]) -> None:
    before = len(ground.calls)
    done = ctl(*arguments)
    assert (done.code, done.out) == (3, "")
    assert "is not a name; use lower-case letters" in done.err
    assert len(ground.calls) == before


def test_no_server() -> None:
    done = Command("127.0.0.1:1")("--json", "list")
    assert done.code == 7
    assert "no banditd answers at 127.0.0.1:1 (Connection refused)" in done.err
    assert done.document["error"]["reason"] == "SERVER_UNAVAILABLE"


def test_a_server_that_does_not_answer_in_time(ctl: Command, ground: Ground) -> None:
    ground.fail("Pause", "silent")
    done = ctl("pause", "answers", "--timeout", "0.4")
    assert done.code == 7
    assert "within 0.4 s" in done.err
    assert "whether a change was made" in done.err


def test_a_fault_inside_the_server(ctl: Command, ground: Ground) -> None:
    ground.fail("Status", grpc.StatusCode.INTERNAL)
    done = ctl("status", "answers")
    assert done.code == 1
    assert "INTERNAL" in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\n\r\nhello", b"\xff" * 100], ids=["http", "noise"])
@pytest.mark.parametrize("arguments", [("list",), ("watch", "answers"), ("decide", "answers", "u")])
def test_garbage_instead_of_a_server(answer: bytes, arguments: tuple[str, ...]) -> None:
    with rude(answer) as address:
        done = Command(address)(*arguments, "--timeout", "3")
    assert done.code in (Exit.UNAVAILABLE, Exit.UNEXPECTED)
    assert done.out == ""
    assert len(done.err.splitlines()) == 1
    assert "Traceback" not in done.err


@pytest.mark.parametrize("known", [True, False], ids=["garbage", "another service"])
def test_a_grpc_server_that_is_no_banditd(known: bool) -> None:
    with odd((lambda context: b"\xff\xff\xff") if known else None) as address:
        for arguments in (("list",), ("status", "answers"), ("watch", "answers"), ("decide", "answers", "u")):
            done = Command(address)(*arguments)
            assert (done.code, done.out) == (1, "")
            assert address in done.err
            assert len(done.err.splitlines()) == 1


def test_a_fault_of_banditctl_is_a_sentence(ctl: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no\nway")

    with mock.patch("bandit.ctl.render.status_view", broken):
        done = ctl("status", "answers")
        assert (done.code, done.out) == (1, "")
        assert done.err == (
            "banditctl: a fault of banditctl: RuntimeError: no way; run again with BANDITCTL_TRACEBACK=1 and report "
            "what it prints\n"
        )
        monkeypatch.setenv("BANDITCTL_TRACEBACK", "1")
        with pytest.raises(RuntimeError):
            ctl("status", "answers")


def test_ctrl_c_while_it_waits(ctl: Command) -> None:
    with mock.patch("bandit.client.Client.status", side_effect=KeyboardInterrupt):
        done = ctl("status", "answers")
    assert (done.code, done.out, done.err) == (130, "", "banditctl: stopped\n")


def test_ctrl_c_while_it_ends_does_not_change_the_exit_code() -> None:
    code = (
        "import signal\nfrom bandit.ctl import main\nmain.run = lambda: 4\n"
        "try: main.main()\n"
        "except SystemExit as end: print(end.code, signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["4", "True"]


def test_ctrl_c_at_a_question(ctl: Command, ground: Ground) -> None:
    with mock.patch("builtins.input", side_effect=KeyboardInterrupt):
        done = ctl("delete", "answers", terminal=True)
    assert done.code == 130
    assert "nothing was changed" in done.err
    assert "answers" in ground.held


def test_a_person_answers_on_a_real_terminal(ctl: Command, ground: Ground) -> None:
    answered = False

    def then(seen: str) -> bytes:
        nonlocal answered
        if "[y/N]" in seen and not answered:
            answered = True
            return b"y\n"
        return b""

    done = ctl.typed("delete", "answers", then=then)
    assert done.code == 0
    assert "answers is deleted" in done.out
    assert not ground.held


def test_who_asks_has_a_name_even_where_nobody_has_one() -> None:
    with mock.patch("getpass.getuser", side_effect=OSError("no such user")):
        assert default_actor().startswith("uid-")
    with mock.patch("socket.gethostname", return_value="ä" * 100):
        assert 0 < len(default_actor().encode()) <= 128
