"""Whether PyCQA's linter shares this environment; it also installs a folder ``bandit``, so the two cannot both work."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable

LINTER = "bandit"


def clash(version: Callable[[str], str] = importlib.metadata.version) -> str | None:
    """The sentence to stop with when the distribution ``bandit`` is installed here, else None.

    ``version`` gives the version of an installed distribution or raises PackageNotFoundError.
    """
    try:
        found = version(LINTER)
    except importlib.metadata.PackageNotFoundError:
        return None
    return (
        f"the distribution {LINTER!r} {found} (PyCQA's linter) is installed in this environment and overwrites files "
        f"of 'banditd'; run `pip uninstall {LINTER}`, reinstall banditd, and keep the linter in an environment of "
        "its own"
    )
