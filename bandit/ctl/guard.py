"""Stops banditctl before anything else when PyCQA's linter shares the environment."""

from __future__ import annotations

import sys

from bandit.distribution import clash


def stop_on_clash() -> None:
    """Exit with code 1 and one sentence when the distribution ``bandit`` is installed here."""
    if sentence := clash():
        sys.stderr.write(f"banditctl: {sentence}\n")
        raise SystemExit(1)
