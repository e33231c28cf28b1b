"""The only numba configuration: every kernel is compiled by the one decorator here and kept by the one cache here.

Numba's own cache asks only whether the file of the kernel itself changed, and fails on a torn file. This one also
asks about every other kernel, since a kernel holds compiled copies of those it calls, and about the constants that
were compiled in; what it cannot read or write costs a compilation and one warning, never a start.
"""

from __future__ import annotations

import hashlib
import importlib
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba.core.caching import FunctionCache, IndexDataCacheFile

Function = TypeVar("Function", bound=Callable[..., Any])

FOLDER = Path(__file__).parent
SELDOM = frozenset(
    {"bayes_ucb", "divergence", "fluid", "indices", "intervals", "margin", "mixing", "track_and_stop"}
)
"""Modules that only some specs need."""
CONSTANT = (bool, int, float, np.ndarray, np.generic)

_warned = False


def kernel(function: Function) -> Function:
    """Compile on first call for the types it is called with; cached on disk; releases the lock while it runs.

    Division by zero gives inf or nan as in numpy, so that no input raises; no fastmath, so that nan, inf and the
    order of sums stay what they are.
    """
    compiled: Any = numba.njit(nogil=True, fastmath=False, error_model="numpy")(function)
    try:
        compiled._cache = KernelCache(function)
    except (AttributeError, OSError, RuntimeError, TypeError) as failure:
        # No folder may be written, or another numba keeps its cache elsewhere: compile in each process.
        _warn(f"compiled kernels cannot be kept: {failure}")
    return cast(Function, compiled)


class KernelCache(FunctionCache):
    """Numba's cache of one function that is stamped by all kernels, and for which a torn file is a missing one."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)  # type: ignore[no-untyped-call]
        self._cache_file = IndexDataCacheFile(  # type: ignore[no-untyped-call]
            cache_path=self._cache_path,
            filename_base=self._impl.filename_base,
            source_stamp=stamp(function),
        )

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The kept code for a signature, or None: then it is compiled."""
        try:
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        except Exception as failure:  # noqa: BLE001 - unpickling torn bytes raises nearly anything
            _warn(f"a kept kernel under {self.cache_path} is unreadable ({failure!r}) and is compiled again")
            self._forget()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the code of a signature; when that fails, the next process compiles again."""
        try:
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]
        except Exception as failure:  # noqa: BLE001 - a full disk, or an index torn since it was read
            _warn(f"a compiled kernel cannot be kept under {self.cache_path}: {failure!r}")

    def _forget(self) -> None:
        try:
            self.flush()  # type: ignore[no-untyped-call]
        except OSError as failure:
            _warn(f"unreadable kernels under {self.cache_path} cannot be removed: {failure!r}")


def stamp(function: Callable[..., Any]) -> str:
    """Digest of all that the compiled code of a function depends on: the files of all kernels, those beside its own
    where it is kept elsewhere, its own constants."""
    digest = hashlib.sha256(_files(FOLDER))
    own = Path(function.__code__.co_filename)
    if own.parent != FOLDER and own.is_file():
        digest.update(_files(own.parent))
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        if isinstance(value, CONSTANT):
            digest.update(f"{name}={np.asarray(value).tolist()!r};".encode())
    return digest.hexdigest()


@lru_cache(maxsize=8)
def _files(folder: Path) -> bytes:
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.digest()


def warm_all() -> None:
    """Compile every kernel, or load it from the cache, for the types that the learner uses; then nothing compiles
    while it serves."""
    warm_often()
    warm_seldom()


def warm_often() -> None:
    """Compile what every experiment needs, or load it from the cache."""
    for name in names():
        if name not in SELDOM:
            importlib.import_module(f"bandit.kernels.{name}").warm()


def warm_seldom() -> None:
    """Compile the rest: rules that few specs ask for. Until then the first look of such a spec compiles them."""
    for name in sorted(SELDOM):
        importlib.import_module(f"bandit.kernels.{name}").warm()


def names() -> list[str]:
    """Names of the modules with kernels."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "jit"))


def _warn(message: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(message, RuntimeWarning, stacklevel=3)
