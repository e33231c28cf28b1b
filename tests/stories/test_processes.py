"""A real supervisor with parts that crash, hang, freeze or do not listen: what it starts, restarts, ends, leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from server.store.embedded import Embedded
from server.store.redis import RedisStore
from tests.service import until
from tests.stage import PATIENCE_S, Stage, alive


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path, "--workers", "2") as started:
        started.ready()
        yield started


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Embedded]:
    """A store that is not the supervisor's own."""
    server = Embedded(tmp_path / "elsewhere")
    yield server
    server.stop()


def test_it_starts_every_part_and_says_where_it_is(stage: Stage) -> None:
    assert {each["name"] for each in stage.logged("part_ready")} == {
        "store",
        "serve-0",
        "serve-1",
        "learn",
        "web",
    }
    (ready,) = stage.logged("service_ready")
    assert ready["grpc"] == stage.listen
    assert ready["http"].startswith("http://127.0.0.1:")
    assert ready["store"] == "embedded"
    issuers = [stage.started(part)["issuer"] for part in ("serve-0", "serve-1")]
    assert len(set(issuers)) == 2
    assert all(issuer >= 1 for issuer in issuers)
    assert stage.started("learn")["issuer"] == 0
    started = stage.started("web")
    assert started["config"]["store"].startswith("unix:///")
    assert started["variables"] == []  # no settings, and so no secrets, in the environment
    assert (stage.data_dir / "metrics").is_dir()


def test_it_ends_in_order_when_asked(stage: Stage) -> None:
    store_pid = stage.store_pid()
    assert stage.end() == 0
    asked = [event["part"] for event in stage.events("asked")]
    assert sorted(asked[:2]) == ["serve-0", "serve-1"]
    assert asked[2:] == ["learn", "web"]
    stopped = [event["name"] for event in stage.logged("part_stopped")]
    assert stopped[-1] == "store"
    assert not alive(store_pid)
    assert stage.logged("service_stopped")
    stage.gone()


def test_a_ctrl_c_at_the_terminal_ends_it_in_the_same_order(tmp_path: Path) -> None:
    with Stage(tmp_path) as stage:
        stage.behave("serve-0", "slow")
        stage.ready()
        stage.look()
        os.killpg(stage.process.pid, signal.SIGINT)  # the terminal sends it to the whole foreground group
        assert stage.wait() == 0
        assert [event["part"] for event in stage.events("asked")] == ["serve-0", "learn", "web"]
        assert {event["signal"] for event in stage.events("asked")} == {signal.SIGTERM}
        assert stage.events("drained")[0]["store"] is True
        assert stage.logged("part_stopped")[-1]["name"] == "store"
        assert stage.logged("part_stopped")[-1]["how"] == "exit code 0"
        stage.gone()


def test_a_killed_server_comes_back_with_another_issuer_number(stage: Stage) -> None:
    first = stage.started("serve-0")
    others = [stage.started(part)["pid"] for part in ("serve-1", "learn", "web")]
    for times in (2, 3):
        os.kill(stage.started("serve-0", times - 1)["pid"], signal.SIGKILL)
        stage.started("serve-0", times)
    issuers = [event["issuer"] for event in stage.events("started") if event["part"].startswith("serve")]
    assert len(set(issuers)) == len(issuers) == 4
    assert stage.started("serve-0")["pid"] != first["pid"]
    assert [stage.started(part)["pid"] for part in ("serve-1", "learn", "web")] == others
    died = stage.logged("part_died")
    assert [event["how"] for event in died] == ["SIGKILL", "SIGKILL"]
    assert stage.end() == 0


def test_a_part_that_crashes_again_and_again_is_tried_ever_more_rarely(tmp_path: Path) -> None:
    with Stage(tmp_path) as stage:
        stage.behave("learn", "crash")
        stage.until(lambda: len(stage.logged("part_died")) >= 6, "six deaths")
        limits = [min(5.0, 0.1 * 2**n) for n in range(6)]
        pauses = [event["again_in_s"] for event in stage.logged("part_died")]
        assert all(pause <= limit + 0.001 for pause, limit in zip(pauses, limits, strict=False)), pauses
        assert not stage.logged("service_ready")
        stage.behave("learn", "good")
        stage.ready()
        assert len(stage.events("started", "serve-0")) == 1
        assert stage.end() == 0
        stage.gone()


@pytest.mark.parametrize("folder", ["near", "so-far-down-that-no-socket-can-have-its-name" * 3])
def test_a_killed_store_comes_back_in_its_place_with_what_it_kept(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    with Stage(tmp_path / folder) as stage:
        stage.ready()
        url = stage.started("web")["config"]["store"]
        with closing(RedisStore(url)) as client:
            before = client.next_uid()
            pid = stage.store_pid()
            os.kill(pid, signal.SIGKILL)
            stage.until(
                lambda: len([each for each in stage.logged("part_ready") if each["name"] == "store"]) == 2,
                "the store ready again",
            )
            assert client.next_uid() == before + 1
        assert stage.store_pid() != pid
        assert len(stage.events("started")) == 3  # nobody else was disturbed
        assert stage.end() == 0
        stage.gone()


def test_servers_start_again_while_the_store_is_away(tmp_path: Path, store: Embedded) -> None:
    store.start()
    with Stage(tmp_path, "--store", store.url) as stage:
        stage.ready()
        store.stop()
        for times in (2, 3):
            os.kill(stage.started("serve-0", times - 1)["pid"], signal.SIGKILL)
            stage.started("serve-0", times)
        issuers = [event["issuer"] for event in stage.events("started", "serve-0")]
        assert len(set(issuers)) == 3
        assert stage.end() == 0
        stage.gone()


def test_without_a_store_servers_start_without_a_number_and_later_ones_get_theirs(
    tmp_path: Path, store: Embedded
) -> None:
    store.start()
    url = store.url
    store.stop()
    with Stage(tmp_path, "--store", url) as stage:
        stage.started("web")
        stage.until(lambda: stage.logged("store_lost"), "it says so")
        assert stage.started("serve-0")["issuer"] == 0
        store.start()
        assert store.url == url
        stage.ready()
        stage.until((tmp_path / "state/issuers").exists, "numbers for the next start")
        os.kill(stage.started("serve-0")["pid"], signal.SIGKILL)
        assert stage.started("serve-0", 2)["issuer"] >= 1
        assert len(stage.logged("store_lost")) == 1
        assert stage.end() == 0


def test_a_part_that_is_never_ready_is_left_to_it_and_ends_with_the_rest(tmp_path: Path) -> None:
    with Stage(tmp_path) as stage:
        stage.behave("learn", "silent")
        stage.until(lambda: stage.logged("part_waiting"), "it says so")
        assert len(stage.events("started", "learn")) == 1
        assert not stage.logged("service_ready")
        assert stage.end() == 0
        stage.gone()


def test_a_part_that_hangs_is_killed_and_comes_back(tmp_path: Path) -> None:
    with Stage(tmp_path, "--hang-s", "1") as stage:
        stage.behave("learn", "hangs")
        first = stage.started("learn")
        again = stage.started("learn", 2)
        assert again["pid"] != first["pid"]
        (hung,) = stage.logged("part_hung")
        assert (hung["name"], hung["pid"]) == ("learn", first["pid"])
        assert stage.logged("part_died")[0]["how"] == "SIGKILL"
        assert stage.end() == 0
        stage.gone()


def test_a_part_that_does_not_listen_is_killed_in_time(tmp_path: Path) -> None:
    with Stage(tmp_path, "--drain-s", "0") as stage:
        stage.behave("serve-0", "deaf")
        stage.behave("learn", "stuck")
        stage.ready()
        began = time.monotonic()
        assert stage.end() == 0
        assert 5 < time.monotonic() - began < 40
        killed = {event["name"] for event in stage.logged("part_killed")}
        assert killed == {"serve-0", "learn"}
        stage.gone()


def test_a_second_ctrl_c_ends_everything_at_once(tmp_path: Path) -> None:
    with Stage(tmp_path, "--drain-s", "600") as stage:
        stage.behave("serve-0", "deaf")
        stage.ready()
        stage.look()
        stage.process.send_signal(signal.SIGINT)
        stage.until(lambda: stage.events("asked", "serve-0"), "the first is being obeyed")
        asked_s = time.monotonic()
        until(lambda: time.monotonic() - asked_s > 0.5, 5, "one that is not the first one, passed on")
        stage.process.send_signal(signal.SIGINT)
        assert stage.wait() == 130
        assert stage.logged("service_forced")
        stage.gone()


def test_nothing_is_left_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    with Stage(tmp_path, "--workers", "3") as stage:
        stage.behave("serve-0", "deaf")
        stage.behave("serve-1", "frozen")
        stage.behave("learn", "stuck")
        for part in ("serve-0", "serve-1", "serve-2", "learn", "web"):
            stage.started(part)
        stage.ready()
        assert len(stage.look()) == 7
        os.kill(stage.process.pid, signal.SIGKILL)
        assert stage.wait() == -signal.SIGKILL
        stage.gone()
        # The next one finds its ports and its folder free.
        for part in ("serve-0", "serve-1", "learn"):
            stage.behave(part, "good")
        stage.start()
        stage.ready(2)
        assert stage.end() == 0


def test_an_answer_that_trying_again_cannot_change_ends_it(tmp_path: Path) -> None:
    with Stage(tmp_path) as stage:
        stage.behave("serve-0", "hopeless")
        stage.until(stage.look, "it runs")
        assert stage.wait() == 1
        assert stage.sentences().startswith("banditd: serve-0 cannot start")
        assert stage.logged("part_stopped")[-1]["name"] == "store"


def test_a_second_banditd_is_refused_before_it_starts_anything(stage: Stage, tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "server", *arguments],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    # The fake servers do not listen; the supervisor's reservation alone keeps the port.
    done = run("--data-dir", str(tmp_path / "other"), "--listen", stage.listen, "--http-listen", "off")
    assert done.returncode == 1
    assert f"{stage.listen} is taken by another process" in done.stderr
    assert done.stderr.count("\n") == 1
    done = run("--data-dir", str(stage.data_dir), "--listen", "127.0.0.1:0", "--http-listen", "off")
    assert done.returncode == 1
    assert f"in use by the banditd of process {stage.process.pid}" in done.stderr
    assert done.stderr.count("\n") == 1
    assert stage.process.poll() is None
    assert stage.end() == 0


def test_the_role_says_what_runs_here(tmp_path: Path, store: Embedded) -> None:
    store.start()
    for role, parts in (("serve", {"serve-0", "web"}), ("learn", {"learn", "web"}), ("web", {"web"})):
        folder = tmp_path / role
        folder.mkdir()
        with Stage(folder, "--store", store.url, "--role", role) as stage:
            stage.ready()
            assert {event["part"] for event in stage.events("started")} == parts
            assert ("grpc" in stage.logged("service_ready")[0]) == (role == "serve")
            assert stage.end() == 0
