"""What a serving process imports starts without numba and scipy, seen in a fresh interpreter."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

# Packages stand for all their modules.
SERVING = (
    "bandit.client",
    "bandit.ctl",
    "bandit.decide",
    "bandit.ranges",
    "bandit.reward",
    "bandit.rng",
    "bandit.rollout.audit",
    "bandit.rollout.state",
    "bandit.rollout.transitions",
    "bandit.spec",
    "bandit.token",
    "server.ingest",
    "server.intake",
    "server.journal",
    "server.rpc",
    "server.snapshot",
    "server.store",
)
# Commands that compute; the command line loads them when they run.
COMPUTING = ("bandit.ctl.rehearsal_text", "bandit.ctl.rehearsing")
PROBE = f"""
import importlib, pkgutil, sys
for name in sys.argv[1:]:
    module = importlib.import_module(name)
    for found in pkgutil.walk_packages(getattr(module, "__path__", ()), name + "."):
        if found.name not in {COMPUTING}:
            importlib.import_module(found.name)
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""


def loaded(*modules: str) -> set[str]:
    """Top-level packages that a fresh interpreter holds after importing `modules` and all below them."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *modules], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def test_serving_loads_no_numba_and_no_scipy() -> None:
    tops = loaded(*filter(exists, SERVING))
    assert "bandit" in tops
    assert not tops & {"numba", "llvmlite", "scipy"}


def test_the_probe_sees_numba_and_scipy() -> None:
    assert {"numba", "scipy"} <= loaded("numba.core.config", "scipy.version")
