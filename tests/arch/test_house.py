"""House rules that no linter knows: sizes, words, a core that reads no clock and draws from one source."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 400
# File past LONGEST lines: the reason why it is not split.
LONG_WITH_REASON: dict[str, str] = {
    "benchmarks/stats/peers.py": "runs in the environment of each peer, so the peers' rules and ours are in one file",
    "protos/bandit/v1/spec.proto": "one message tree, as the YAML file is one document",
    "tests/unit/test_journal.py": "one journal, from a record to its adoption, over one set of builders",
    "tests/unit/test_rpc_experiments.py": "one service, a test per method and refusal",
    "tests/unit/test_spec_check.py": "one table: each rule with the sentence of its breach",
    "tests/unit/test_rpc_rewards.py": "one service, a test per door and refusal",
}
# The glossary has one word for each thing; these stand for none of them.
VAGUE = {
    "common",
    "context",
    "data",
    "helper",
    "helpers",
    "info",
    "manager",
    "misc",
    "score",
    "util",
    "utils",
}
ALLOWED_NAMES = {"overlap_score"}
# Folders that PyCQA's linter installs under the same import name.
TAKEN = {"blacklists", "cli", "core", "formatters", "plugins"}
EDGES = ("client", "ctl", "v1")
CLOCKS = {"now", "today", "utcnow", "perf_counter", "monotonic"}
WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+")


def sources(*folders: str, suffixes: tuple[str, ...] = (".py",)) -> list[Path]:
    """Files written by hand under `folders`, in order."""
    found = (path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in suffixes)
    return sorted(path for path in found if (ROOT / "bandit/v1") not in path.parents)


def core() -> list[Path]:
    """Files of the library that decide, that is all but its edges."""
    return [path for path in sources("bandit") if path.relative_to(ROOT / "bandit").parts[0] not in EDGES]


def words(name: str) -> set[str]:
    """Lower-case words of a snake_case or CamelCase name."""
    return {word.lower() for word in WORDS.findall(name)}


def defined(tree: ast.AST) -> Iterator[str]:
    """Names of the classes and functions that a module defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name


def impure(tree: ast.AST) -> Iterator[str]:
    """Reads of a clock and uses of numpy's own random numbers, as `name (line)`."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        if isinstance(node.value, ast.Name) and node.value.id in ("np", "numpy") and node.attr == "random":
            yield f"np.random (line {node.lineno})"
        elif node.attr in CLOCKS:
            yield f"{ast.unparse(node)} (line {node.lineno})"


def test_files_stay_small() -> None:
    suffixes = (".py", ".lua", ".sh", ".proto")
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for path in sources("bandit", "server", "tests", "benchmarks", "protos", suffixes=suffixes)
    }
    long = {name: length for name, length in lengths.items() if length > LONGEST}
    assert set(long) <= set(LONG_WITH_REASON), f"split, or list with a reason: {long}"


@pytest.mark.parametrize("folder", ["bandit", "server"])
def test_names_say_what_they_stand_for(folder: str) -> None:
    vague: list[str] = []
    for path in sources(folder):
        place = path.relative_to(ROOT)
        names = [*place.with_suffix("").parts, *defined(ast.parse(path.read_text()))]
        vague += [f"{place}: {name}" for name in names if words(name) & VAGUE and name not in ALLOWED_NAMES]
    assert not vague


def test_no_module_shadows_the_linter_of_the_same_name() -> None:
    assert not [path for path in (ROOT / "bandit").iterdir() if path.stem in TAKEN]


def test_the_top_package_is_empty() -> None:
    assert (ROOT / "bandit/__init__.py").read_text() == ""
    assert (ROOT / "server/__init__.py").read_text() == ""


def test_the_core_reads_no_clock_and_draws_only_from_rng() -> None:
    found = {str(path.relative_to(ROOT)): list(impure(ast.parse(path.read_text()))) for path in core()}
    assert not {name: uses for name, uses in found.items() if uses}


def test_impurity_is_seen() -> None:
    planted = ast.parse(
        "import numpy as np\nx = np.random.default_rng(1)\ny = datetime.now()\nz = np.add.at\n"
    )
    assert sorted(impure(planted)) == ["datetime.now (line 3)", "np.random (line 2)"]


@pytest.mark.parametrize("name", ["ArmManager", "HTTPInfo", "parse_data", "util"])
def test_vague_words_are_seen(name: str) -> None:
    assert words(name) & VAGUE


def test_test_files_have_unique_names_and_no_packages() -> None:
    names = Counter(path.name for path in sources("tests") if path.name.startswith("test_"))
    assert not [name for name, count in names.items() if count > 1]
    assert not list((ROOT / "tests").rglob("__init__.py"))
