"""What runs here."""

from __future__ import annotations

import importlib.metadata


def version() -> str:
    """The installed version of banditd."""
    try:
        return importlib.metadata.version("banditd")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
