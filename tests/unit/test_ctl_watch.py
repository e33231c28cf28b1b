"""Watching: a line or a document for each change, a live table on a terminal, back after a break, out by Ctrl-C."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import threading
from collections.abc import Iterator
from itertools import islice
from typing import IO

import grpc
import pytest

from bandit import errors
from bandit.client import Client, ServerUnavailable
from bandit.ctl.watch import Sight, changes, look
from bandit.spec.parse import parse_yaml
from bandit.v1 import experiment_pb2 as pb
from tests.double.command import CTRL_C, SPEC, Command
from tests.double.ground import Ground
from tests.double.server import Double


@pytest.fixture
def double() -> Iterator[Double]:
    with Double() as running:
        with Client(running.address) as client:
            client.create(parse_yaml(SPEC))
            client.start("answers")
        yield running


@pytest.fixture
def ground(double: Double) -> Ground:
    return double.ground


@pytest.fixture
def ctl(double: Double) -> Command:
    return Command(double.address)


class Lines:
    """Lines of a pipe, each waited for."""

    def __init__(self, pipe: IO[str] | None) -> None:
        assert pipe is not None
        self._pipe = pipe
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._pipe:
            self._lines.put(line)

    def next(self) -> str:
        return self._lines.get(timeout=30)


def stop(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Ctrl-C; the exit code and what stderr says after."""
    process.send_signal(signal.SIGINT)
    code = process.wait(20)
    assert process.stderr is not None
    return code, process.stderr.read()


def test_a_line_for_each_change_until_ctrl_c(ctl: Command, ground: Ground) -> None:
    with ctl.started("watch", "answers") as process:
        lines = Lines(process.stdout)
        assert "RUNNING epoch 1 allocation 2 | old 100 % new 0 % | 0 exposures" in lines.next()
        ground.reallocate("answers", (600_000, 400_000))
        assert "allocation 3 | old 60.00 % new 40.00 %" in lines.next()
        with Client(ctl.server) as client:
            client.roll_back("answers", "new", "x")
        assert "rolled back new" in lines.next()
        code, said = stop(process)
    assert code == 130
    assert said == "banditctl: stopped\n"


def test_a_reader_who_has_gone_ends_it_quietly(ctl: Command, ground: Ground) -> None:
    with ctl.started("watch", "answers") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        for share in range(1, 200):
            ground.reallocate("answers", (1_000_000 - share, share))
            try:
                code = process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
            break
        assert code == 141
        assert process.stderr.read() == ""


def test_a_document_for_each_change(ctl: Command, ground: Ground) -> None:
    with ctl.started("--json", "watch", "answers") as process:
        lines = Lines(process.stdout)
        assert json.loads(lines.next())["arms"][0]["share_ppm"] == 1_000_000
        ground.reallocate("answers", (600_000, 400_000))
        assert json.loads(lines.next())["allocation"]["shares_ppm"] == [600_000, 400_000]
        assert stop(process)[0] == 130


def test_a_server_that_comes_back_is_watched_again(double: Double, ctl: Command) -> None:
    with ctl.started("watch", "answers") as process:
        lines, troubles = Lines(process.stdout), Lines(process.stderr)
        assert "allocation 2" in lines.next()
        double.stop()
        assert "trying again" in troubles.next()
        with Double(double.ground, double.port) as again:
            again.ground.reallocate("answers", (600_000, 400_000))
            assert "allocation 3" in lines.next()
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130


@pytest.mark.parametrize("presses", [1, 5])
def test_a_live_table_on_a_terminal(ctl: Command, ground: Ground, presses: int) -> None:
    moved, left = False, presses

    def then(seen: str) -> bytes:
        nonlocal moved, left
        if "40.00 %" in seen and left:
            left -= 1
            return CTRL_C
        if "Ctrl-C ends watching" in seen and not moved:
            moved = True
            ground.reallocate("answers", (600_000, 400_000))
        return b""

    done = ctl.typed("watch", "answers", columns=100, then=then)
    assert done.code == 130
    assert "\x1b[?25h" in done.out  # the cursor is back
    assert "Traceback" not in done.out
    if presses == 1:
        assert done.out.rstrip().endswith("banditctl: stopped")


def test_what_is_not_there_is_not_waited_for(ctl: Command) -> None:
    done = ctl("watch", "nowhere")
    assert (done.code, done.out) == (4, "")
    assert "nowhere" in done.err


def test_a_server_that_never_answered_is_not_waited_for(ctl: Command, double: Double) -> None:
    double.stop()
    assert ctl("watch", "answers").code == 7


def test_an_experiment_that_is_deleted_ends_the_watching(ctl: Command, ground: Ground) -> None:
    ground.after["Shown"] = ground.held.clear
    done = ctl("--json", "watch", "answers")
    assert done.code == 4
    assert "no experiment" in done.err
    shown, error = map(json.loads, done.out.splitlines())
    assert shown["name"] == "experiments/answers"
    assert error["error"]["exit_code"] == 4


def test_breaks_are_waited_out_ever_longer(double: Double) -> None:
    pauses: list[float] = []
    with Client(double.address) as client:
        double.ground.breaks[3] = grpc.StatusCode.UNAVAILABLE
        sights = look(client, "answers", pauses.append)
        assert next(sights).status is not None
        double.ground.fail("Watch", *[errors.StoreUnavailable("away")] * 6)
        double.ground.reallocate("answers", (600_000, 400_000))
        seen = list(islice(sights, 8))
        assert [sight.status is None for sight in seen] == [False, *[True] * 7]
        double.ground.reallocate("answers", (500_000, 500_000))
        status = next(sights).status
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert status is not None
    assert list(status.allocation.shares_ppm) == [500_000, 500_000]


def test_a_pipe_is_not_told_that_nothing_changed() -> None:
    first = pb.ExperimentStatus(name="a", exposures=1)
    judged_again = pb.ExperimentStatus(name="a", exposures=1, log_entries_behind=3)
    judged_again.evaluation_time.seconds = 9
    more = pb.ExperimentStatus(name="a", exposures=2)
    sights = [
        Sight(first),
        Sight(judged_again),
        Sight(None, "away"),
        Sight(judged_again),
        Sight(more),
        Sight(first),
    ]
    assert list(changes(iter(sights))) == [Sight(first), Sight(None, "away"), Sight(more), Sight(first)]


def test_the_first_trouble_is_raised(double: Double) -> None:
    double.ground.fail("Watch", grpc.StatusCode.UNAVAILABLE)
    with Client(double.address) as client, pytest.raises(ServerUnavailable):
        next(look(client, "answers", lambda seconds: None))
