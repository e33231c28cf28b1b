"""The demo beside a real supervisor: what it is told, how it ends, what it leaves."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.stage import PATIENCE_S, Stage


def test_a_demo_gives_its_exit_code_and_leaves_no_trace(tmp_path: Path) -> None:
    with ExitStack() as held:
        for port in (50061, 50080):
            other = held.enter_context(socket.socket())
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                other.bind(("127.0.0.1", port))
                other.listen()
            except OSError:
                pass  # somebody has it already, which will do
        with Stage(tmp_path, "--demo", "--exit", "--seconds", "3", ports=False) as stage:
            stage.ready()
            os.kill(stage.started("demo")["pid"], signal.SIGKILL)
            assert stage.wait() == 128 + signal.SIGKILL
        stage.gone()
    started = stage.started("demo")
    assert started["arguments"][:3] == ["--exit", "--seconds", "3.0"]
    moved = {event["setting"]: event for event in stage.logged("port_moved")}
    assert set(moved) == {"listen", "http_listen"}
    assert started["target"] == moved["listen"]["got"] != "127.0.0.1:50061"
    serving = stage.started("serve-0")["config"]
    assert serving["listen"] == started["target"]
    assert "banditd-demo-" in serving["data_dir"]
    assert not Path(serving["data_dir"]).exists()


def test_a_ctrl_c_reaches_the_demo_first(tmp_path: Path) -> None:
    with Stage(tmp_path, "--demo", "--listen", "127.0.0.1:0", "--http-listen", "off", ports=False) as stage:
        stage.started("demo")
        stage.ready()
        stage.look()
        os.kill(stage.process.pid, signal.SIGINT)
        assert stage.wait() == 0
        assert stage.events("asked")[0]["part"] == "demo"
        assert not Path(stage.started("learn")["config"]["data_dir"]).exists()
        stage.gone()


def test_the_end_of_a_demo_is_the_end_of_all_even_before_all_is_ready(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "--demo", "--listen", "127.0.0.1:0", "--http-listen", "off", ports=False)
    stage.behave("demo", "exit 7")
    stage.behave("learn", "silent")
    with stage:
        assert stage.wait() == 7


@pytest.mark.parametrize("flag", ["--data-dir", "--store", "--role"])
def test_a_demo_touches_nothing_of_yours(tmp_path: Path, flag: str) -> None:
    value = {"--data-dir": str(tmp_path / "mine"), "--store": "redis://127.0.0.1:1", "--role": "serve"}[flag]
    done = subprocess.run(
        [sys.executable, "-m", "server", "--demo", flag, value],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 1
    assert "leave it out" in done.stderr
    assert not (tmp_path / "mine").exists()
