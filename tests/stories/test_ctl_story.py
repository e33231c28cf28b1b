"""An operator releases a model with nothing but banditctl and a real banditd, from the file to the last record."""

from __future__ import annotations

import json
import queue
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from bandit.ctl.findings import exit_code
from bandit.ctl.text import token_bytes
from bandit.spec.parse import parse_yaml
from bandit.v1.reward_service_pb2 import RewardEvent
from server.config import Config
from server.doctor import findings
from tests.double.command import SPEC, Command
from tests.service import Service, until

PATIENCE_S = 120.0
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    running = Service(tmp_path_factory.mktemp("ctl") / "state")
    try:
        running.start(wait=False)
        # The learner compiles first: seconds, but minutes where other tests take the processors.
        until(running.ready, 2 * PATIENCE_S, f"{running.listen} ready; see {running.log}")
        yield running
    finally:
        running.stop()


@pytest.fixture
def ctl(service: Service) -> Command:
    return Command(service.listen)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "answers.yaml"
    path.write_text(SPEC)
    return path


def wait_for(ctl: Command, name: str, met: Callable[[Any], bool], what: str) -> Any:
    """The status once it is as wanted."""
    ends = time.monotonic() + PATIENCE_S
    while not met(status := ctl("--json", "status", name).document):
        assert time.monotonic() < ends, f"not within {PATIENCE_S:g} s: {what}: {status}"
        time.sleep(0.1)
    return status


def decide_until(ctl: Command, name: str, met: Callable[[Any], bool]) -> int:
    """Decides until servers know what the store does; returns how many decisions that took."""
    ends = time.monotonic() + PATIENCE_S
    counted = 0
    while True:
        done = ctl("--json", "decide", name, "anybody")
        counted += done.code == 0
        if done.code == 0 and met(done.document):
            return counted
        assert time.monotonic() < ends, done
        time.sleep(0.1)


def reward(service: Service, decisions: list[dict[str, str]], rates: dict[str, float], seed: int) -> None:
    """One reward of `helpful` and one of `flagged` for each decision."""
    chance = random.Random(seed)
    events = []
    for each in decisions:
        token = token_bytes(each["token"])
        events.append(
            RewardEvent(token=token, metric="helpful", value=float(chance.random() < rates[each["arm"]]))
        )
        events.append(RewardEvent(token=token, metric="flagged", value=0.0))
    with service.client() as client:
        client.report_rewards(events)


def test_a_release_from_the_file_to_the_last_record(service: Service, ctl: Command, file: Path) -> None:
    assert ctl("validate", str(file)).code == 0
    assert ctl("apply", "-f", str(file), "--dry-run").code == 0
    assert ctl("--json", "list").document == {"experiments": []}
    applied = ctl("apply", "-f", str(file), "--yes", "--actor", "anna@ops")
    assert (applied.code, applied.err) == (0, "")
    assert parse_yaml(ctl("get", "answers").out) == parse_yaml(SPEC)
    assert "nothing to change" in ctl("apply", "-f", str(file)).out

    assert ctl("start", "answers").code == 0
    assert ctl("start", "answers").code == 6
    wait_for(ctl, "answers", lambda status: status["arms"][1]["share_ppm"] > 0, "the new arm has traffic")

    polls = decide_until(ctl, "answers", lambda decision: decision["propensity"] == 0.5)
    many = ctl("--json", "decide", "answers", "unit", "-n", "2000").document
    assert many["reasons"] == ["assigned"]
    assert set(many["arms"]) == {"old", "new"}
    reward(service, many["decisions"], {"old": 0.3, "new": 0.7}, seed=1)
    status = wait_for(
        ctl, "answers", lambda status: status["rewards"]["applied"] == 4000, "every reward is counted once"
    )
    assert status["exposures"] == 2000 + polls
    # The better arm is as far up as its cap lets it.
    wait_for(
        ctl, "answers", lambda status: status["arms"][1]["share_ppm"] == 500_000, "evidence moves shares"
    )
    shown = ctl("status", "answers")
    assert shown.code == 0
    assert "50.00 %" in shown.out
    assert "flags" in shown.out

    file.write_text(SPEC.replace("cap: 0.5", "cap: 0.9"))
    changed = ctl("apply", "-f", str(file), "--yes")
    assert changed.code == 0
    assert "arms.new.bounds.cap: 0.5 -> 0.9" in changed.out
    wait_for(ctl, "answers", lambda status: status["arms"][1]["share_ppm"] > 500_000, "a wider cap is used")

    rolled = ctl(
        "rollback", "answers", "new", "--reason", "37 complaints in 10 minutes", "--actor", "anna@ops"
    )
    assert (rolled.code, rolled.err) == (0, "")
    status = ctl("--json", "status", "answers").document
    assert status["allocation"]["shares_ppm"] == [1_000_000, 0]
    assert status["arms"][1]["state"]["rollback"]["reason"] == "37 complaints in 10 minutes"
    assert ctl("rollback", "answers", "new", "--reason", "again").code == 6
    for _ in range(3):
        assert ctl("apply", "-f", str(file), "--yes").code == 0
    assert ctl("--json", "status", "answers").document["arms"][1]["share_ppm"] == 0
    assert ctl("promote", "answers", "new", "--yes").code == 6

    assert ctl("clear-rollback", "answers", "new", "--reason", "mended").code == 0
    assert ctl("delete", "answers", "--yes").code == 6
    assert ctl("promote", "answers", "new", "--yes").code == 0
    decide_until(ctl, "answers", lambda decision: decision["arm"] == "new" and decision["propensity"] == 1.0)
    wait_for(
        ctl,
        "answers",
        lambda status: status["arms"][1]["share_ppm"] == 1_000_000,
        "everybody gets the new arm",
    )

    records = ctl("--json", "audit", "answers").document["records"]
    operators = [record["action"] for record in reversed(records) if record["action"] != "held"]
    assert operators == ["created", "started", "updated", "rolled_back", "rollback_cleared", "promoted"]
    assert all(
        record["actor"].endswith("anna@ops")
        for record in records
        if record["action"] in ("created", "rolled_back")
    )
    assert ctl("delete", "answers", "--yes").code == 0
    assert ctl("get", "answers").code == 4


def test_rewards_by_hand(ctl: Command, tmp_path: Path) -> None:
    path = tmp_path / "hand.yaml"
    path.write_text(SPEC.replace("experiment: answers", "experiment: hand"))
    assert ctl("apply", "-f", str(path), "--yes").code == 0
    assert ctl("start", "hand").code == 0
    decide_until(ctl, "hand", lambda decision: decision["counted"])
    token = ctl("--json", "decide", "hand", "u1").document["token"]
    assert ctl("reward", "helpful", "1", "--token", token, "--wait").out == "applied: it is counted\n"
    assert ctl("reward", "helpful", "1", "--token", token, "--wait").out.startswith("duplicate")
    conflict = ctl("reward", "helpful", "0", "--token", token, "--wait")
    assert (conflict.code, conflict.err.partition(":")[0]) == (8, "banditctl")
    assert ctl("reward", "profit", "11", "--token", token).code == 8
    assert ctl("reward", "profit", "-9.5", "--token", token).code == 0
    assert ctl("reward", "helpful", "1", "--token", token[:-2] + "AA").code == 8
    named = ("--experiment", "hand", "--arm", "new", "--unit", "u", "--event-id", "e")
    refused = ctl("reward", "helpful", "1", *named)
    assert refused.code == 8
    assert "TOKEN_REQUIRED" in refused.err


def test_what_another_spec_would_have_been_worth(service: Service, ctl: Command, tmp_path: Path) -> None:
    """The decisions that banditctl printed are the log; rewards name them by their tokens."""
    path, log = tmp_path / "logged.yaml", tmp_path / "log.jsonl"
    path.write_text(SPEC.replace("experiment: answers", "experiment: logged"))
    assert ctl("apply", "-f", str(path), "--yes").code == 0
    assert ctl("start", "logged").code == 0
    decide_until(ctl, "logged", lambda decision: decision["propensity"] == 0.5)
    single = ctl("--json", "decide", "logged", "somebody").document
    many = ctl("--json", "decide", "logged", "unit", "-n", "500").document["decisions"]
    chance, lines = random.Random(1), []
    for at, each in enumerate([single, *many]):
        liked = float(chance.random() < (0.8 if each["arm"] == "new" else 0.2))
        lines.append({**each, "time": f"2026-01-01T00:{at // 60:02}:{at % 60:02}Z"})
        lines.append({"token": each["token"], "metric": "helpful", "value": liked})
    log.write_text("\n".join(map(json.dumps, lines)))
    known = ctl("--json", "evaluate", "-f", str(path), "--log", str(log), "--every", "30s").document
    assert (known["counts"]["decisions"], known["counts"]["valued"]) == (501, 501)
    news = [each["arm"] for each in [single, *many]].count("new")
    assert [arm["decisions"] for arm in known["arms"]] == [501 - news, news]
    worth = known["logged"]["value"]
    assert worth == pytest.approx(sum(line.get("value", 0.0) for line in lines) / 501)
    path.write_text(path.read_text() + "allocator: {kind: fixed, weights: {old: 0.1, new: 0.9}}\n")
    path.write_text(path.read_text().replace("cap: 0.5", "cap: 0.9"))
    other = ctl("--json", "evaluate", "-f", str(path), "--log", str(log), "--every", "30s").document
    ips, snips = other["estimates"][:2]
    assert abs(snips["value"]["value"] - 0.74) < 6 * snips["value"]["se"] < 0.3
    assert snips["lift"]["value"] > 0.0
    assert ips["lift"]["value"] == pytest.approx(ips["value"]["value"] - worth)
    assert other["arms"][1]["share"] == pytest.approx(0.9)
    replayed = ctl("evaluate", "-f", str(path), "--log", str(log), "--mode", "replay", "--every", "30s")
    assert replayed.code == 0, replayed.err
    assert "accepted " in replayed.out


def lines_of(pipe: IO[str] | None) -> queue.Queue[str]:
    """Lines of a pipe as they come."""
    assert pipe is not None
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in pipe:
            lines.put(line)

    threading.Thread(target=read, daemon=True).start()
    return lines


def test_watching_through_a_restart_of_the_server(service: Service, ctl: Command, tmp_path: Path) -> None:
    path = tmp_path / "watched.yaml"
    path.write_text(SPEC.replace("experiment: answers", "experiment: watched"))
    assert ctl("apply", "-f", str(path), "--yes").code == 0
    with ctl.started("--json", "watch", "watched") as process:
        lines, troubles = lines_of(process.stdout), lines_of(process.stderr)
        assert json.loads(lines.get(timeout=PATIENCE_S))["state"] == "EXPERIMENT_STATE_DRAFT"
        assert service.stop() == 0
        assert "trying again" in troubles.get(timeout=PATIENCE_S)
        assert ctl("start", "watched").code == 7
        service.start(wait=False)
        ends = time.monotonic() + PATIENCE_S
        while (code := ctl("start", "watched").code) != 0:
            assert code == 7
            assert time.monotonic() < ends
        while json.loads(lines.get(timeout=PATIENCE_S))["state"] != "EXPERIMENT_STATE_RUNNING":
            assert time.monotonic() < ends
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def test_the_doctor_asks_the_server_for_what_it_sees(service: Service, ctl: Command) -> None:
    """The same rows as `banditd doctor` in the server's folder, and the exit code that says the worst of them."""
    done = ctl("doctor", "--timeout", "60")
    assert "data_dir" in done.out
    assert "evict" in done.out
    document = ctl("--json", "doctor", "--timeout", "60").document
    own = findings(Config(data_dir=service.data_dir))
    assert [row["check"] for row in document["findings"]] == [row.check for row in own]
    assert [row["ok"] for row in document["findings"]] == [row.ok for row in own]
    assert document["exit_code"] == done.code == exit_code(own)
