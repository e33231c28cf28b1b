"""The environment is one and the same everywhere: pyproject's pins and the lock files name equal versions."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = ("requirements.lock", "protos/generator.lock")
UNINSTALLABLE = "bandit==99"
ENTRY = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^ ;]+)(?P<marker> ; [^\\]+)? \\$")
HASH = re.compile(r"^    --hash=sha256:[0-9a-f]{64}( \\)?$")


def entries(text: str) -> dict[str, tuple[str, int]]:
    """Version and number of hashes per package of a lock file; any line of another kind is an error."""
    found: dict[str, tuple[str, int]] = {}
    name = ""
    for line in text.splitlines():
        if entry := ENTRY.match(line):
            name = canonicalize_name(entry["name"])
            assert name not in found, f"{name} is locked twice"
            found[name] = (entry["version"], 0)
        else:
            assert name, f"no package before {line!r}"
            assert HASH.match(line), f"neither a pinned package nor its hash: {line!r}"
            found[name] = (found[name][0], found[name][1] + 1)
    return found


def pins(table: str) -> dict[str, str]:
    """Version per package of a list of exact constraints under [tool.uv]."""
    found: dict[str, str] = {}
    for text in PYPROJECT["tool"]["uv"][table]:
        name, _, version = text.partition("==")
        assert version, f"{text!r} is no exact pin"
        found[canonicalize_name(name)] = version
    return found


@pytest.mark.parametrize("path", LOCKS)
def test_a_lock_pins_and_hashes_every_package(path: str) -> None:
    locked = entries((ROOT / path).read_text())
    assert locked
    assert not [name for name, (_, hashes) in locked.items() if hashes == 0]


@pytest.mark.parametrize("path", LOCKS)
def test_a_lock_names_no_index(path: str) -> None:
    assert "://" not in (ROOT / path).read_text()


def test_pins_and_lock_agree() -> None:
    assert UNINSTALLABLE in PYPROJECT["tool"]["uv"]["constraint-dependencies"]
    pinned = pins("constraint-dependencies")
    del pinned["bandit"]
    locked = {
        name: version for name, (version, _) in entries((ROOT / "requirements.lock").read_text()).items()
    }
    assert pinned == locked


def test_the_build_is_pinned_too() -> None:
    assert {Requirement(text).name for text in PYPROJECT["build-system"]["requires"]} <= set(
        pins("build-constraint-dependencies")
    )


def test_every_direct_dependency_is_locked_within_its_bounds() -> None:
    locked = entries((ROOT / "requirements.lock").read_text())
    wanted = [*PYPROJECT["project"]["dependencies"], *PYPROJECT["dependency-groups"]["dev"]]
    for requirement in map(Requirement, wanted):
        version, _ = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} does not allow {version}"
