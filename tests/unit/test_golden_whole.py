"""Every golden value is met by a test, or here is said why none has to meet it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import pytest

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "golden"


class Met(NamedTuple):
    """So many values of a file are asserted, or given to what is asserted, by tests of these modules."""

    values: int
    by: tuple[str, ...]


FILES = {
    "best_feasible": Met(35, ("unit/test_feasible_golden.py",)),
    "confidence_sequences": Met(
        565,
        (
            "unit/test_anytime.py",
            "unit/test_confseq.py",
            "unit/test_intervals.py",
            "oracles/test_report_twins.py",
        ),
    ),
    "eb_ipw": Met(34, ("unit/test_anytime.py",)),
    "eb_overlap": Met(102, ("unit/test_anytime.py", "unit/test_confseq.py")),
    "forward_decay": Met(65, ("unit/test_reading_golden.py",)),
    "lower_bounds": Met(74, ("unit/test_feasible_golden.py",)),
    "pbest": Met(379, ("unit/test_allocation_golden.py",)),
    "posteriors": Met(
        191,
        (
            "unit/test_allocation_golden.py",
            "unit/test_cohort_effects.py",
            "unit/test_linear.py",
            "unit/test_objective.py",
            "unit/test_posterior_golden.py",
            "unit/test_reading_golden.py",
        ),
    ),
    "projection": Met(231, ("unit/test_allocation_golden.py",)),
    "ucb_indices": Met(282, ("unit/test_index_golden.py",)),
}
NOT_MET = {
    "words": (
        "what",
        "how",
        "formula",
        "*/formula",
        "*/note",
        "families/*",
        "expected_loss",
        "bayes_ucb_beta/*/level",
        "fluid_ucb/*/f",
        "aipw_from_sums/table/*/epoch",
    ),
    "the same value in fewer digits": (
        "cases/*/p_best_f64/*",
        "*/index_f64",
        "*/level_f64",
        "*/weights_f64/*",
    ),
    "the file's checks of itself and of a library": (
        "*/sum_check",
        "*/sum_minus_one",
        "*/refinement_change",
        "*/batch_check",
        "*/agree",
        "*/confseq",
        "*/confseq_one",
        "*/confseq_two",
        "*/confseq_bernoulli_ci_*",
        "*/checked_against_per_event",
        "*/alarm_above_at_alpha_0p01",
        "*/f64_forward_overflows",
    ),
    "a bound that is not shipped": (
        "confseq_reference_only/*",
        "asymptotic_cs/*/fixed_n_z_halfwidth",
        "normal_mixture/rows/*/rho_two",
    ),
    "a projection that is not shipped": ("cases/*/euclid*", "cases/*/additive_floor_no_caps/*"),
    "landmarks, which a reading by age does without": ("cases/*/landmark", "cases/*/log_scale_of_raw_sums"),
    "a period counts at its middle and not at its end": ("*/worst_weight_error_bucket_end",),
}


def leaves(tree: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    if isinstance(tree, dict):
        for key, each in tree.items():
            yield from leaves(each, (*path, key))
    elif isinstance(tree, list):
        for each in tree:
            yield from leaves(each, (*path, "*"))
    else:
        yield "/".join(path)


def reason(path: str) -> str | None:
    return next((why for why, each in NOT_MET.items() if any(fnmatch(path, one) for one in each)), None)


@pytest.mark.parametrize("name", FILES)
def test_no_value_is_left_out(name: str) -> None:
    counts = Counter(leaves(json.loads((GOLDEN / f"{name}.json").read_text())))
    assert sum(count for path, count in counts.items() if reason(path) is None) == FILES[name].values
    for module in FILES[name].by:
        assert f"{name}.json" in (HERE.parent / module).read_text(), module


def test_every_file_and_every_reason_is_used() -> None:
    assert sorted(FILES) == sorted(path.stem for path in GOLDEN.glob("*.json"))
    paths = {path for name in FILES for path in leaves(json.loads((GOLDEN / f"{name}.json").read_text()))}
    for patterns in NOT_MET.values():
        for pattern in patterns:
            assert any(fnmatch(path, pattern) for path in paths), pattern


def changed(value: Any) -> Any:
    """Another value of the same kind, too far off for any tolerance."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return 1.01 * value + 1e-3
    if value is None:
        return 1.0
    if re.fullmatch(r"-?\d+", value):
        return str(int(value) + 1)
    if found := re.fullmatch(r"(-?\d+)/(\d+)", value):
        return f"{101 * int(found[1]) + int(found[2])}/{100 * int(found[2])}"
    try:
        return repr(1.01 * float(value) + 1e-3)
    except ValueError:
        return f"{value}x"


def with_changed(tree: Any, wanted: str, path: tuple[str, ...] = ()) -> Any:
    if isinstance(tree, dict):
        return {key: with_changed(each, wanted, (*path, key)) for key, each in tree.items()}
    if isinstance(tree, list):
        return [with_changed(each, wanted, (*path, "*")) for each in tree]
    return changed(tree) if "/".join(path) == wanted else tree


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", FILES)
def test_no_value_can_be_another(tmp_path: Path, name: str, full: bool) -> None:
    """Value by value, by the name of its field: with it changed in a copy of the tests, one of them fails.

    All ten files take half an hour and more, so this is for ``--full``; without it one field of the smallest is
    changed.
    """
    if not full and name != "eb_ipw":
        pytest.skip("changes each value of the file in turn: --full")
    shutil.copytree(HERE.parent, tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(HERE.parents[1] / "pyproject.toml", tmp_path)
    file = tmp_path / "tests" / "golden" / f"{name}.json"
    tree = json.loads(file.read_text())
    fields = [path for path in dict.fromkeys(leaves(tree)) if reason(path) is None]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
    unseen = []
    for path in fields if full else fields[:1]:
        file.write_text(json.dumps(with_changed(tree, path)))
        ended = subprocess.run(
            [*command, *(f"tests/{module}" for module in FILES[name].by)],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(HERE.parents[1]), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if ended.returncode != 1:
            unseen.append((path, ended.returncode))
    assert unseen == []
