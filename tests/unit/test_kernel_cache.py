"""Compiled kernels are kept, and what is torn, stale or unwritable costs a compilation and never a start."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from bandit.kernels import best_arm, fluid, jit, quantile, simplex

ONE = """
from bandit.kernels.jit import kernel

@kernel
def part(x: float) -> float:
    return x / PARTS
"""


FACTOR = 2.0


class Run(NamedTuple):
    """What a fresh import of the kernel gave."""

    value: float
    hits: int
    warned: list[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of kernels with one file, whose kernel divides by a constant."""
    (tmp_path / "one.py").write_text(ONE.replace("PARTS", "2.0"))
    monkeypatch.setattr(jit, "FOLDER", tmp_path)
    return tmp_path


def run(folder: Path) -> Run:
    """Import the file as a new process would, and call its kernel once."""
    jit._files.cache_clear()
    jit._warned = False
    spec = importlib.util.spec_from_file_location("one", folder / "one.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        spec.loader.exec_module(module)
        part: Any = module.part
        value = part(3.0)
    jit._files.cache_clear()
    return Run(value, sum(part.stats.cache_hits.values()), [str(each.message) for each in seen])


def test_a_kernel_is_compiled_once(folder: Path) -> None:
    assert run(folder) == (1.5, 0, [])
    assert run(folder) == (1.5, 1, [])


def empty(raw: bytes) -> bytes:
    return b""


def half(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def noise(raw: bytes) -> bytes:
    return bytes(byte ^ 0x5A for byte in raw)


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("tear", [empty, half, noise])
def test_a_torn_file_is_compiled_again_with_one_warning(
    folder: Path, suffix: str, tear: Callable[[bytes], bytes]
) -> None:
    run(folder)
    torn = list(folder.rglob(f"*{suffix}"))
    assert torn
    for path in torn:
        path.write_bytes(tear(path.read_bytes()))
    value, hits, warned = run(folder)
    assert (value, hits) == (1.5, 0)
    assert len(warned) == 1
    assert "is unreadable" in warned[0]
    assert run(folder) == (1.5, 1, [])


def test_another_kernel_file_makes_it_stale(folder: Path) -> None:
    """A kernel holds compiled copies of those it calls, which may live in other files."""
    run(folder)
    (folder / "two.py").write_text("# changed\n")
    assert run(folder).hits == 0
    assert run(folder).hits == 1


def test_a_kernel_kept_elsewhere_is_stale_when_it_changes_or_what_is_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulations and tests have kernels of their own."""
    kernels = tmp_path / "kernels"
    kernels.mkdir()
    monkeypatch.setattr(jit, "FOLDER", kernels)
    file = tmp_path / "one.py"
    file.write_text(ONE.replace("PARTS", "2.0"))
    assert [run(tmp_path)[:2], run(tmp_path)[:2]] == [(1.5, 0), (1.5, 1)]
    file.write_text(ONE.replace("PARTS", "4.0"))
    assert run(tmp_path)[:2] == (0.75, 0)
    (tmp_path / "two.py").write_text("# changed\n")
    assert run(tmp_path).hits == 0


def test_a_folder_that_cannot_be_written_compiles_each_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a read-only file system comes to: numba finds no place for the cache and raises."""
    monkeypatch.setattr("numba.core.caching.CacheImpl._locator_classes", [])
    for _ in range(2):
        value, hits, warned = run(folder)
        assert (value, hits) == (1.5, 0)
        assert [each.split(":")[0] for each in warned] == ["compiled kernels cannot be kept"]


def test_a_full_disk_leaves_the_kernel_usable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile.save", full)
    value, hits, warned = run(folder)
    assert (value, hits) == (1.5, 0)
    assert len(warned) == 1
    assert "No space left" in warned[0]


def test_constants_are_part_of_the_stamp() -> None:
    """A constant may come from a module that is no kernel, as the outcome codes of the log do."""

    def part(x: float) -> float:
        return x * FACTOR

    before = jit.stamp(part)
    globals()["FACTOR"] = 3.0
    assert jit.stamp(part) != before
    globals()["FACTOR"] = 2.0
    assert jit.stamp(part) == before


def test_what_is_warmed_late_exists() -> None:
    assert set(jit.names()) > jit.SELDOM


def test_warming_leaves_nothing_to_compile() -> None:
    """Every kernel that the learner's functions meet has its types after ``warm_all``."""
    jit.warm_all()
    kernels: list[Any] = [best_arm.compare, quantile._invert, simplex.project_kl, fluid.pour]
    before = [len(each.signatures) for each in kernels]
    assert min(before) >= 1
    rows = np.array([[3.0, 4.0], [5.0, 6.0]])
    best_arm.best_arm(best_arm.BETA, rows)
    rows.flags.writeable = False
    best_arm.best_arm(best_arm.STUDENT_T, np.ones((2, 3))[::-1], lowest=True)
    best_arm.best_arm(best_arm.NORMAL, rows[:, ::-1])
    quantile.quantiles(best_arm.BETA, rows, (0.1, 0.2))
    simplex.project_kl(np.array([0.4, 0.6]), np.zeros(2), np.ones(2), np.empty(2))
    half = np.array([0.4, 0.6])
    fluid.pour(3, half, half, np.ones(2), 3.0, 5.0, np.empty(2))
    assert [len(each.signatures) for each in kernels] == before
