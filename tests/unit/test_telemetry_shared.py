"""Metrics of several processes, over restarts and deaths; and how log lines come out of a process."""

from __future__ import annotations

import errno
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.telemetry import shared
from server.telemetry.mapped import Mapped
from server.telemetry.scrape import Scrape
from tests.fakes import FakeClock

Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


def values(text: str) -> Values:
    """Sample name and labels -> value."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


# --- several processes -----------------------------------------------------------------------------------------------

SERVER = """
import os, sys
from pathlib import Path
from server.telemetry import shared
from server.telemetry.mapped import Mapped
shared.join(Path(sys.argv[1]), sys.argv[2])
from server.telemetry.serving import ServingLevels, ServingTelemetry
from server.telemetry.learning import LearnerTelemetry
read_ms, version, up = int(sys.argv[3]), int(sys.argv[4]), sys.argv[5] == "up"
levels = ServingLevels(backlog=3, snapshot_version=version, snapshot_read_ms=read_ms or None, store_up=up)
telemetry = ServingTelemetry(lambda: levels)
telemetry.rpc("Decide", "OK", 0.001)
telemetry.decided("assigned", "fresh", 10)
telemetry.flush()
learner = LearnerTelemetry(lambda: read_ms)
learner.evaluated("answers", 1, {"PASS": 1})
learner.evaluated("gone", 1, {"PASS": 1})
learner.forgotten("gone")
"""


def serve(folder: Path, part: str, read_ms: int, version: int, up: str = "up") -> None:
    """A process that counts and ends, like one that is killed: nothing is done at its end."""
    command = [
        sys.executable,
        "-c",
        SERVER + "\nos._exit(0)",
        str(folder),
        part,
        str(read_ms),
        str(version),
        up,
    ]
    subprocess.run(command, check=True, timeout=60)


def scrape(folder: Path, now_ms: int) -> Values:
    clock = FakeClock(now_ms=now_ms)
    body, content_type = Scrape(folder, clock.now_ms, "1.2.3").render()
    assert content_type.startswith("text/plain")
    return values(body.decode())


def test_processes_are_merged(tmp_path: Path) -> None:
    shared.clean(tmp_path)
    serve(tmp_path, "serve-0", 10_000, 7)
    serve(tmp_path, "serve-1", 12_000, 8, "down")
    found = scrape(tmp_path, 15_000)
    assert found[key("banditd_decisions_total", reason="assigned", mode="fresh")] == 20
    assert found[key("banditd_rpc_seconds_count", method="Decide")] == 2
    assert found[key("banditd_rpc_seconds_bucket", method="Decide", le="0.001")] == 2
    assert found[key("banditd_journal_backlog_records")] == 6
    assert found[key("banditd_snapshot_version")] == 7
    assert found[key("banditd_store_up")] == 0
    assert found[key("banditd_snapshot_age_seconds")] == 5
    assert found[key("banditd_evaluation_age_seconds", experiment="answers")] == 3
    build = [dict(labels) for name, labels in found if name == "banditd_build_info"]
    assert build == [{"version": "1.2.3", "python": sys.version.split()[0]}]
    assert not [labels for _, labels in found if ("experiment", "gone") in labels]
    assert not [labels for _, labels in found if "pid" in dict(labels)]


def test_a_part_goes_on_counting_after_a_restart_in_the_same_files(tmp_path: Path) -> None:
    shared.clean(tmp_path)
    for _ in range(3):
        serve(tmp_path, "serve-0", 10_000, 7)
    files = sorted(file.name for file in tmp_path.iterdir())
    assert all(name.endswith("_serve-0.db") for name in files)
    assert len(files) == len({name.rpartition("_")[0] for name in files})
    assert scrape(tmp_path, 0)[key("banditd_decisions_total", reason="assigned", mode="fresh")] == 30


def test_a_dead_part_no_longer_says_how_things_are_but_its_counts_stay(tmp_path: Path) -> None:
    shared.clean(tmp_path)
    serve(tmp_path, "serve-0", 10_000, 7)
    shared.forget(tmp_path, "serve-0")
    found = scrape(tmp_path, 15_000)
    assert found[key("banditd_decisions_total", reason="assigned", mode="fresh")] == 10
    assert key("banditd_store_up") not in found
    assert key("banditd_snapshot_age_seconds") not in found


def test_a_server_that_has_read_nothing_does_not_pass_for_one_of_1970(tmp_path: Path) -> None:
    shared.clean(tmp_path)
    serve(tmp_path, "serve-0", 10_000, 7)
    serve(tmp_path, "serve-1", 0, 0)
    assert scrape(tmp_path, 15_000)[key("banditd_snapshot_age_seconds")] == 5


def test_a_damaged_file_costs_its_counts_but_no_start(tmp_path: Path) -> None:
    shared.clean(tmp_path)
    serve(tmp_path, "serve-0", 10_000, 7)
    for file in tmp_path.iterdir():
        file.write_bytes(os.urandom(4096))
    serve(tmp_path, "serve-0", 10_000, 7)
    assert scrape(tmp_path, 0)[key("banditd_decisions_total", reason="assigned", mode="fresh")] == 10


def test_a_start_cleans_the_folder(tmp_path: Path) -> None:
    serve(tmp_path, "serve-0", 10_000, 7)
    shared.clean(tmp_path)
    assert list(tmp_path.iterdir()) == []
    shared.clean(tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


# --- log lines -------------------------------------------------------------------------------------------------------

LOGGING = """
import logging, sys
import structlog
from server.telemetry import logs
logs.configure("info", sys.argv[1], "learn")
log = structlog.get_logger()
log.debug("thing_hidden")
log.info("thing_done", name="a\\nb", number=1)
logging.getLogger("asyncio").warning("slow %s", "task")
try:
    secret = "SECRET"
    raise ValueError("no")
except ValueError:
    log.exception("thing_failed")
"""


def logged(form: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", LOGGING, form], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


@pytest.mark.parametrize("form", ["json", "auto"])
def test_lines_are_json_when_nobody_sits_at_a_terminal(form: str) -> None:
    lines = [json.loads(line) for line in logged(form)]
    assert [line["event"] for line in lines] == ["thing_done", "package_logged", "thing_failed"]
    assert list(lines[0])[:4] == ["timestamp", "level", "event", "part"]
    assert {line["part"] for line in lines} == {"learn"}
    assert lines[0]["name"] == "a\nb"
    assert lines[1]["message"] == "slow task"
    assert "ValueError: no" in lines[2]["exception"]
    assert "SECRET" not in str(lines)


def test_lines_are_text_when_asked_for() -> None:
    text = "\n".join(logged("text"))
    assert "thing_done" in text
    assert "thing_hidden" not in text
    assert "ValueError: no" in text
    assert "\x1b" not in text
    assert "SECRET" not in text


def test_a_reader_that_is_gone_stops_nothing() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-c", LOGGING + "\nprint('on')", "json"],
            stdout=subprocess.PIPE,
            stderr=writing,
            text=True,
            check=False,
            timeout=60,
        )
    finally:
        os.close(writing)
    assert done.stdout == "on\n"


# --- a full disk -----------------------------------------------------------------------------------------------------

FULL = """
import errno, os, sys
from pathlib import Path
folder, when = Path(sys.argv[1]), sys.argv[2]
from server.telemetry import shared
from server.telemetry.mapped import Mapped

def fill():
    "Of a real disk every block, else the call that asks for blocks."
    if os.path.ismount(folder):
        with open(folder / "filling", "ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                return
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")
    os.posix_fallocate = refuse

if when == "before":
    fill()
shared.join(folder, "serve-0")
from prometheus_client import CollectorRegistry, Counter
words = Counter("words", "of a label", ["word"], registry=CollectorRegistry())
words.labels("first").inc()
if when == "later":
    fill()
for number in range(3000):
    words.labels(f"word-{number}").inc()
words.labels("first").inc()
assert words.labels("first")._value.get() == 2.0
assert words.labels("word-2999")._value.get() == 1.0
"""


@pytest.mark.parametrize("when", ["before", "later"])
@pytest.mark.parametrize("disk", ["real", "played"])
def test_a_full_disk_ends_no_process(tmp_path: Path, when: str, disk: str) -> None:
    """Mapped pages without a block behind them would: by SIGBUS, and again at each start."""
    play = [sys.executable, "-c", FULL, str(tmp_path), when]
    if disk == "real":
        mount = f"mount -t tmpfs -o size=200k tmpfs {shlex.quote(str(tmp_path))} && exec {shlex.join(play)}"
        play = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount]
        if subprocess.run([*play[:4], "true"], check=False, capture_output=True).returncode:
            pytest.skip("nobody here may mount a disk of their own; the disk is played beside")
    ended = subprocess.run(play, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]


def test_what_was_counted_before_a_full_disk_is_read_after_it(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", FULL, str(tmp_path), "later"], check=True, timeout=60)
    found = values(Scrape(tmp_path, FakeClock().now_ms, "1.2.3").render()[0].decode())
    assert found[key("words_total", word="first")] == 1.0
    assert found[key("words_total", word="word-0")] == 1.0


def test_what_leaves_a_full_disk_takes_its_numbers_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = str(tmp_path / "counter_serve-0.db")
    kept = Mapped(path)
    kept.write_value("first", 7.0, 0.0)  # type: ignore[no-untyped-call]
    later = Mapped(path)
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    for each in (later, Mapped(path)):
        for number in range(3000):
            each.read_value(f"word-{number}")  # type: ignore[no-untyped-call]
        assert each.read_value("first")[0] == 7.0  # type: ignore[no-untyped-call]
        each.close()  # type: ignore[no-untyped-call]
    kept.close()  # type: ignore[no-untyped-call]
