"""The import contracts of pyproject.toml hold, and each of them bites when a violation is planted."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONTRACTS: dict[str, dict[str, Any]] = {
    contract["id"]: contract
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
}


class Plant(NamedTuple):
    """One forbidden import: `module` (made when it is not there yet) imports `target`."""

    contract: str
    module: str
    target: str


PLANTS = (
    Plant("server-layers", "server.store", "server.rpc"),
    Plant("server-layers", "server.ingest", "server.control"),
    Plant("server-layers", "server.runtime", "server.app"),
    Plant("bandit-layers", "bandit.ledger", "bandit.kernels"),
    Plant("bandit-layers", "bandit.ranges", "bandit.rng"),
    Plant("bandit-layers", "bandit.allocate", "bandit.client"),
    Plant("bandit-layers", "bandit.client", "bandit.ctl"),
    Plant("library-without-shell", "bandit.client", "server.config"),
    *(
        Plant("core-without-io", "bandit.ranges", name)
        for name in CONTRACTS["core-without-io"]["forbidden_modules"]
    ),
    *(
        Plant("redis-in-store", "server.control", name)
        for name in CONTRACTS["redis-in-store"]["forbidden_modules"]
    ),
    Plant("redis-in-store", "server.app", "redis"),
    Plant("serving-without-numba", "bandit.token", "scipy"),
    Plant("serving-without-numba", "bandit.rollout.transitions", "numba"),
    # Indirect: decide may stand on rollout, but not on a part of it that needs the kernels.
    Plant("serving-without-numba", "bandit.decide", "bandit.rollout.planted"),
    Plant("serving-without-numba", "bandit.rollout.planted", "numba"),
    Plant("protos-at-the-edge", "server.store", "bandit.v1"),
    Plant("protos-at-the-edge", "bandit.decide", "bandit.v1"),
)
STRAYS = (Plant("server-layers", "server.stray", ""), Plant("bandit-layers", "bandit.stray", ""))


def lint(tree: Path) -> tuple[int, str]:
    """Exit code and report of import-linter, run in `tree`."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command as run; run()",
            "--no-cache",
        ],
        cwd=tree,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def source(tree: Path, module: str) -> Path:
    """File of a dotted module in `tree`; made, with the packages above it, when it does not exist."""
    base = tree.joinpath(*module.split("."))
    for package in reversed(base.relative_to(tree).parents[:-1]):
        (tree / package).mkdir(exist_ok=True)
        (tree / package / "__init__.py").touch()
    path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    path.touch()
    return path


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What import-linter says of a copy of the tree with every violation planted, per contract id."""
    tree = tmp_path_factory.mktemp("planted")
    shutil.copy(ROOT / "pyproject.toml", tree)
    for package in ("bandit", "server"):
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    for plant in (*PLANTS, *STRAYS):
        path = source(tree, plant.module)
        if plant.target.split(".")[0] in ("bandit", "server"):
            source(tree, plant.target)
        if plant.target:
            path.write_text(path.read_text() + f"\nimport {plant.target}\n")
    code, report = lint(tree)
    assert code == 1, report
    details = report.partition("Broken contracts")[2]
    assert details, report
    starts = sorted(
        (details.index(f"\n{contract['name']}\n-"), name)
        for name, contract in CONTRACTS.items()
        if f"\n{contract['name']}\n-" in details
    )
    ends = [start for start, _ in starts[1:]] + [len(details)]
    return {name: details[start:end] for (start, name), end in zip(starts, ends, strict=True)}


def test_the_tree_keeps_every_contract() -> None:
    code, report = lint(ROOT)
    assert code == 0, report


def test_every_contract_has_a_planted_violation() -> None:
    assert {plant.contract for plant in PLANTS} == set(CONTRACTS)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: f"{plant.module}-imports-{plant.target}")
def test_a_planted_import_breaks_its_contract(plant: Plant, broken: dict[str, str]) -> None:
    assert f"{plant.module} -> {plant.target} (l." in " ".join(broken.get(plant.contract, "").split())


@pytest.mark.parametrize("stray", STRAYS, ids=lambda stray: stray.module)
def test_a_module_without_a_layer_breaks_the_contract(stray: Plant, broken: dict[str, str]) -> None:
    assert f"- {stray.module}" in broken[stray.contract]
