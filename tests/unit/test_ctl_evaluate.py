"""The command evaluate: from files to words, JSON, a picture, refusals and exit codes; and the Open Bandit Dataset."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from bandit.ctl.evaluate import MOST_LINE, default_every_s, read_log
from bandit.ctl.exits import Exit
from bandit.ctl.main import cli
from bandit.evaluate.weights import by_weights
from benchmarks.replay_obd import replay_spec
from tests.evaluations import logged, spec_of
from tests.synthetic_log import ITEMS, PATH, ROWS

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT.parent / "shared/data/obd"
SPEC = """
experiment: tried
arms: [{name: a, control: true}, {name: b}]
metrics:
- {name: liked, kind: bernoulli, direction: maximize, attribution_window: 10s}
- {name: unsafe, kind: bernoulli, direction: minimize, attribution_window: 10s}
objective: [{metric: liked}]
guardrails: [{name: limit, kind: rate_limit, metric: unsafe, limit: 0.05}]
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A spec, and a log of even shares in which b is liked and unsafe."""
    folder = tmp_path_factory.mktemp("evaluate")
    spec, log = folder / "spec.yaml", folder / "log.jsonl.gz"
    spec.write_text(SPEC)
    rng = np.random.default_rng(1)
    lines = []
    for at in range(800):
        arm = int(rng.integers(0, 2))
        lines.append(
            {
                "time": f"2026-01-01T00:{at // 60:02}:{at % 60:02}Z",
                "decision_id": f"d{at}",
                "arm": "ab"[arm],
                "propensity": 0.5,
                "rewards": [{"metric": "liked", "value": int(rng.random() < (0.3, 0.6)[arm]), "delay_s": 3}],
            }
        )
        unsafe = {"decision_id": f"d{at}", "metric": "unsafe", "value": int(rng.random() < (0.01, 0.3)[arm])}
        lines.append(unsafe)
    log.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    return str(spec), str(log)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["evaluate", *arguments], standalone_mode=False)


def values(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_people_get_values_and_doubts(files: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    spec, log = files
    told = run("-f", spec, "--log", log)
    assert told.return_value == Exit.OK, told.stderr
    assert "tried by weights  800 decisions, 800 valued, 200 looks each 4 s" in told.stdout
    assert "b rolled back: limit: b unsafe" in told.stdout
    for estimator in ("ips", "snips", "dr", "switch_dr"):
        assert f"\n{estimator}" in told.stdout
    replayed = run("-f", spec, "--log", log, "--mode", "replay", "--every", "40s")
    assert "20 looks each 40 s" in replayed.stdout
    assert "note: the spec saw" in replayed.stdout


def test_a_narrow_terminal_cuts_nothing(files: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    spec, log = files
    monkeypatch.setenv("COLUMNS", "80")
    told = run("-f", spec, "--log", log).stdout.splitlines()
    assert max(map(len, told)) <= 80
    assert (
        sum(line.startswith(("ips ", "snips ", "dr ", "switch_dr ", "liked ", "unsafe ")) for line in told)
        == 6
    )
    assert next(line.split() for line in told if line.startswith("ESTIMATOR"))[-3:] == ["MORE", "95", "%"]


def test_scripts_get_a_document(files: tuple[str, str]) -> None:
    spec, log = files
    found = values(run("-f", spec, "--log", log, "--every", "20s", "--json"))
    assert found["experiment"] == "tried"
    assert found["counts"] == {
        "decisions": 800,
        "valued": 800,
        "pending": 0,
        "unanswered": 0,
        "late": 0,
        "uncounted": 0,
        "looks": 40,
        "every_s": 20.0,
    }
    assert [each["estimator"] for each in found["estimates"]] == ["ips", "snips", "dr", "switch_dr"]
    (fall,) = found["falls"]
    assert (fall["arm"], fall["guardrail"], fall["action"]) == ("b", "limit", "rolled_back")
    assert found["accepted"] is None
    assert found["arms"][1]["last"] == 0.0
    one, two = (
        values(run("-f", spec, "--log", log, "--mode", "replay", "--seed", seed, "--every", "40s", "--json"))
        for seed in "12"
    )
    assert one["estimates"] != two["estimates"]
    assert one["accepted"] > 0
    assert one["trust"] is None


def test_a_picture_is_one(files: tuple[str, str], tmp_path: Path) -> None:
    spec, log = files
    path = tmp_path / "seen.png"
    done = run("-f", spec, "--log", log, "--every", "1m", "--plot", str(path))
    assert done.return_value == Exit.OK, done.stderr
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 15_000


@pytest.mark.parametrize(
    ("content", "arguments", "told"),
    [
        (b'{"time": 1}\n', [], ":1:1: time: 1 is not a text"),
        (b"", [], ":1:1: no decision"),
        (b'{"arm": "\xff"}', [], ":1:10: byte 0xff is not UTF-8"),
        (b" " * (MOST_LINE + 10), [], ":1:1: longer than 1,048,576 bytes"),
        (gzip.compress(b"{}" * 999, mtime=0)[:-9], [], "cannot be unpacked"),
        (b"\x1f\x8bno gzip at all", [], "cannot be unpacked"),
        (b"", ["--every", "soon"], "'soon' is not a duration"),
        (b"", ["--every", "0s"], "0s is not within 1ms to 366d"),
        (b"", ["--plot", "seen.txt"], "seen.txt is no .png, .svg, .pdf file"),
        (b"a,b\n", ["--format", "open-bandit"], "no column timestamp"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    files: tuple[str, str], tmp_path: Path, content: bytes, arguments: list[str], told: str
) -> None:
    log = tmp_path / "log.jsonl"
    log.write_bytes(content)
    refused = run("-f", files[0], "--log", str(log), *arguments)
    assert refused.return_value == Exit.INVALID
    assert told in refused.stderr
    assert refused.stdout == ""
    as_json = values(run("-f", files[0], "--log", str(log), *arguments, "--json"))
    assert as_json["error"]["exit_meaning"] == "INVALID"


def test_several_faults_have_a_line_each(files: tuple[str, str], tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"time": 1}\n\n{"arm": "a"}\n')
    refused = run("-f", files[0], "--log", str(log))
    assert "2 fields are wrong:" in refused.stderr
    assert f"  {log}:3:1: time: missing" in refused.stderr


def test_looks_come_as_often_as_the_spec_has_periods_or_200_times() -> None:
    spec = spec_of(2)
    assert default_every_s(logged(spec, [0, 1], np.array([0.5, 0.5]), [0, 0])) == 2.0
    assert default_every_s(logged(spec, [0] * 1001, np.array([0.5, 0.5]), [0] * 1001)) == 5.001


def test_rows_of_the_open_bandit_dataset_have_the_value_of_uniform_shares(tmp_path: Path) -> None:
    """The invented sample is of a uniform policy: uniform shares are worth what was clicked."""
    spec = replay_spec("items", range(ITEMS), "fixed")
    packed = tmp_path / "log.csv.gz"
    packed.write_bytes(gzip.compress(PATH.read_bytes()))
    log = read_log(str(packed), spec)
    found = by_weights(log, default_every_s(log))
    assert found.counts.decisions == ROWS
    assert found.estimates[0].value.value == pytest.approx(found.logged.value, abs=1e-5)
    assert found.estimates[0].lift.se == pytest.approx(0.0, abs=1e-5)


@pytest.mark.skipif(not SAMPLES.exists(), reason="the samples of the Open Bandit Dataset are not here")
@pytest.mark.parametrize(
    ("campaign", "items", "ips", "snips", "mean_weight"),
    [("men", 34, 0.0030086, 0.0031894, 0.9433), ("women", 46, 0.0074376, 0.002373, 3.1342)],
)
def test_samples_of_the_open_bandit_dataset_have_their_measured_values(
    campaign: str, items: int, ips: float, snips: float, mean_weight: float
) -> None:
    log = read_log(str(SAMPLES / f"{campaign}_bts.csv.gz"), replay_spec("items", range(items), "fixed"))
    found = by_weights(log, 86_400.0)
    assert found.estimates[0].value.value == pytest.approx(ips, abs=1e-7)
    assert found.estimates[1].value.value == pytest.approx(snips, abs=1e-7)
    assert found.trust is not None
    assert found.trust.mean_weight == pytest.approx(mean_weight, abs=1e-4)
    assert "from decision to decision" in " ".join(found.warnings)
