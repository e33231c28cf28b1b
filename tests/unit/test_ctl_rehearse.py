"""The command rehearse: same seed, same numbers, whatever the processes; JSON, pictures, refusals and exit codes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bandit.ctl.exits import Exit
from bandit.ctl.main import cli

SPEC = """
experiment: tried
arms: [{name: a, control: true}, {name: b}]
metrics:
- {name: liked, kind: bernoulli, direction: maximize, attribution_window: 1s}
- {name: unsafe, kind: bernoulli, direction: minimize, attribution_window: 1s}
objective: [{metric: liked}]
guardrails: [{name: limit, kind: rate_limit, metric: unsafe, limit: 0.05}]
"""
WORLD = """
traffic_per_hour: 36000
horizon: 60s
arms:
- {name: a, metrics: [{name: liked, mean: 0.3}, {name: unsafe, mean: 0.01}]}
- {name: b, metrics: [{name: liked, times: 1.5}, {name: unsafe, mean: 0.3}]}
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    spec, world = tmp_path / "spec.yaml", tmp_path / "world.yaml"
    spec.write_text(SPEC)
    world.write_text(WORLD)
    return str(spec), str(world)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["rehearse", *arguments], standalone_mode=False)


def values(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_numbers_depend_on_the_seed_and_not_on_the_processes(files: tuple[str, str]) -> None:
    spec, world = files
    told = ["-f", spec, "--world", world, "--runs", "7", "--looks", "6", "--json"]
    one, two, other = (
        values(run(*told, "--processes", processes, "--seed", seed))
        for processes, seed in (("1", "5"), ("2", "5"), ("1", "6"))
    )
    assert one == two
    assert one["worlds"] != other["worlds"]
    (seen,) = one["worlds"]
    assert seen["best"] == "a"
    assert seen["runs"] == 7
    assert seen["guards"][0]["harmful"] is True
    assert seen["guards"][0]["acted"]["of"] == 7
    assert seen["false_rollbacks"]["runs"] == 0


def test_people_get_worlds_made_from_the_spec_in_words(files: tuple[str, str]) -> None:
    told = run(
        "-f",
        files[0],
        "--runs",
        "2",
        "--looks",
        "5",
        "--traffic",
        "50",
        "--horizon",
        "1d",
        "--processes",
        "1",
    )
    assert told.return_value == Exit.OK, told.stderr
    for name in ("equal", "b-better", "b-harmful", "rising"):
        assert f"world {name}  2 runs of 1d at 50 requests an hour, a look each 5 h" in told.stdout
    assert "false rollbacks: 0 % (0 to 84)" in told.stdout
    assert "note: limit cannot see +20 % on b at 50 requests an hour within 1d" in told.stdout


def test_a_picture_is_one(files: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "seen.png"
    spec, world = files
    done = run(
        "-f", spec, "--world", world, "--runs", "2", "--looks", "4", "--processes", "1", "--plot", str(path)
    )
    assert done.return_value == Exit.OK, done.stderr
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 20_000


def test_without_matplotlib_it_is_told_before_any_work(
    files: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "matplotlib" else find(name, *rest)
    )
    refused = run("-f", files[0], "--world", files[1], "--plot", str(tmp_path / "seen.png"))
    assert refused.return_value == Exit.NOT_ALLOWED
    assert "run `pip install 'banditd[plot]'`, or leave --plot out" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--plot", "seen.txt"], Exit.INVALID, "seen.txt is no .png, .svg, .pdf file"),
        (["--horizon", "soon"], Exit.INVALID, "'soon' is not a duration"),
        (["--horizon", "0s"], Exit.INVALID, "0s is not within 1s to 366d"),
    ],
)
def test_wrong_options_are_refused(
    files: tuple[str, str], arguments: list[str], code: Exit, told: str
) -> None:
    refused = run("-f", files[0], *arguments)
    assert refused.return_value == code
    assert told in refused.stderr


def test_a_wrong_world_is_told_at_its_line(files: tuple[str, str]) -> None:
    spec, world = files
    Path(world).write_text(WORLD.replace("mean: 0.01", "mean: 7"))
    refused = run("-f", spec, "--world", world, "--json")
    assert refused.return_value == Exit.INVALID
    assert (
        f"{world}:5:49: arms.0.metrics.1: unsafe of a: its mean goes from 7 to 7, outside [0, 1]"
        in refused.stderr
    )
    assert values(refused)["error"]["exit_meaning"] == "INVALID"
