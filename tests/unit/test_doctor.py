"""`banditd doctor`: every row looks at its own thing, the exit code says the worst, JSON says the same."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bandit.ctl import findings
from server import doctor
from server.__main__ import run
from server.config import Config
from server.store.embedded import Embedded
from server.store.findings import Finding


@pytest.fixture
def config(tmp_path: Path) -> Config:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    return Config(data_dir=folder, journal_bytes=1 << 20)


def row(config: Config, check: str) -> Finding:
    return next(row for row in doctor.findings(config) if row.check == check)


def test_all_is_well_on_a_new_machine(config: Config) -> None:
    assert [row for row in doctor.findings(config) if not row.ok] == []
    assert "not running" in row(config, "store").seen
    missing = replace(config, data_dir=config.data_dir / "later")
    assert row(missing, "data_dir").ok


def test_a_folder_that_others_may_read_is_told(config: Config) -> None:
    config.data_dir.chmod(0o755)
    assert not row(config, "data_dir").ok
    assert "mode 755" in row(config, "data_dir").seen


def test_a_disk_too_small_for_the_journal_is_told(config: Config) -> None:
    assert not row(replace(config, journal_bytes=1 << 40), "disk").ok


def test_an_old_or_open_snapshot_is_told(config: Config) -> None:
    place = config.data_dir / "snapshot" / "snapshot"
    place.parent.mkdir(mode=0o700)
    place.write_bytes(b"x")
    place.chmod(0o600)
    assert row(config, "snapshot").ok
    os.utime(place, (time.time() - 9000, time.time() - 9000))
    assert "9000 s old" in row(config, "snapshot").seen
    assert not row(config, "snapshot").ok
    os.utime(place)
    place.chmod(0o644)
    assert "readable by others" in row(config, "snapshot").seen


def test_sources_that_are_not_there_are_told(config: Config, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        place = f"127.0.0.1:{listening.getsockname()[1]}"
        there: dict[str, object] = {"name": "orders", "kind": "redis_stream", "url": f"redis://{place}/0"}
        assert row(replace(config, sources=(there,)), "source orders").ok
    assert place in row(replace(config, sources=(there,)), "source orders").seen
    assert not row(replace(config, sources=(there,)), "source orders").ok
    file: dict[str, object] = {"name": "file", "kind": "jsonl", "path": str(tmp_path / "*.jsonl")}
    assert not row(replace(config, sources=(file,)), "source file").ok
    (tmp_path / "a.jsonl").touch()
    assert row(replace(config, sources=(file,)), "source file").ok


def test_the_running_embedded_store_is_found_and_looked_at(config: Config) -> None:
    with Embedded(config.data_dir / doctor.STORE_FOLDER):
        assert row(config, "durability").ok
        assert row(config, "transport").ok


def test_the_command_says_the_worst_by_its_exit_code(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["doctor", "--data-dir", str(config.data_dir), "--journal-bytes", str(1 << 20)]
    assert run(asked) == findings.RIGHT
    assert "0 not as wanted" in capsys.readouterr().out
    config.data_dir.chmod(0o755)
    assert run([*asked, "--json"]) == findings.WRONG
    shown = json.loads(capsys.readouterr().out)
    assert shown["exit_code"] == findings.WRONG
    assert {each["check"] for each in shown["findings"] if not each["ok"]} == {"data_dir"}
    assert run([*asked, "--store", "redis://127.0.0.1:1"]) == findings.FATAL
    assert "FATAL  reachable" in capsys.readouterr().out


def test_json_belongs_to_doctor() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "server", "--json"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert "--json belongs to doctor" in ended.stderr
