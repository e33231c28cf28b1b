"""The demo as its users run it: the whole service and a simulated world, to the end or to a Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service import descendants, until

LAST = re.compile(
    r"demo: winner=(?P<winner>\S+) share_ppm=(?P<share>\d+) rolled_back=(?P<stopped>\S+) "
    r"decisions=(?P<decisions>\d+) rewards=(?P<rewards>\d+) lost=(?P<lost>\d+)"
)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    with Demo(tmp_path) as running:
        yield running


class Demo:
    """`banditd --demo` in a pipe, with its temporary folders where the test can look."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "temporary"
        self.folder.mkdir()
        self.out, self.err = folder / "out", folder / "err"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Demo:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "server", "--demo", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=os.environ | {"TMPDIR": str(self.folder)},
            )
        return self.process

    def lines(self) -> list[str]:
        return self.out.read_text().splitlines()

    def last(self) -> re.Match[str]:
        lines = self.lines()
        found = LAST.fullmatch(lines[-1]) if lines else None
        assert found, f"{lines[-3:]} {self.err.read_text()[-3000:]}"
        return found


def test_the_demo_ends_by_itself_and_every_fact_of_its_last_line_holds(demo: Demo) -> None:
    process = demo.start("--exit", "--seconds", "16")
    code = process.wait(250)
    last = demo.last()
    assert (code, last["winner"], last["stopped"], last["lost"]) == (0, "tuned", "fast", "0"), demo.lines()
    assert int(last["share"]) > 500_000
    assert int(last["decisions"]) > 500
    assert int(last["rewards"]) > 2 * int(last["decisions"])
    told = "\n".join(demo.lines())
    assert "fast begins to give unsafe answers" in told
    assert "FAIL unsafe-" in told
    assert "fast gets no more traffic, by guardrail/unsafe-" in told
    assert not list(demo.folder.iterdir()), "the demo left something behind"


def test_ctrl_c_prints_the_last_line_and_leaves_nothing_behind(demo: Demo) -> None:
    process = demo.start()
    until(lambda: any("| decisions 1" in line for line in demo.lines()), 200, "the world lives")
    time.sleep(2.0)  # a world under way, with rewards still to come
    pids = set(descendants(process.pid))
    assert len(pids) >= 5  # supervisor, store, server, learner, web, demo
    for pid in pids:  # as a terminal does: everybody of the foreground group gets it
        if os.getpgid(pid) == os.getpgid(process.pid):
            os.kill(pid, signal.SIGINT)
    assert process.wait(110) == 0, demo.err.read_text()[-3000:]
    last = demo.last()
    assert last["lost"] == "0"
    assert int(last["decisions"]) > 0
    assert "uv run banditctl" in "\n".join(demo.lines())
    until(lambda: not any(_alive(pid) for pid in pids), 10, "every process gone")
    assert not list(demo.folder.iterdir()), "the demo left something behind"


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
