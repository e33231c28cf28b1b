"""The data directory of one banditd: made private, and owned by one supervisor at a time."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from bandit.errors import NotAllowed

_LOCK = "banditd.lock"
# The lock of one that was just killed is free in a moment.
_WITHIN_S = 1.0


class OwnedFolder:
    """Holds the lock until ``close``; children do not inherit it.

    Raises NotAllowed when another supervisor has it, or it cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = (path / _LOCK).open("a+")
        except OSError as error:
            raise NotAllowed(
                f"data_dir: {path} cannot be used ({error.strerror}); give a folder that this user may write, "
                "by --data-dir",
                reason="DATA_DIR_UNUSABLE",
            ) from None
        deadline = time.monotonic() + _WITHIN_S
        while not self._try():
            if time.monotonic() > deadline:
                self._lock.seek(0)
                owner = self._lock.read().strip() or "unknown"
                self._lock.close()
                raise NotAllowed(
                    f"data_dir: {path} is in use by the banditd of process {owner}; stop that one, or give another "
                    "folder by --data-dir",
                    reason="DATA_DIR_IN_USE",
                    owner=owner,
                )
            time.sleep(0.02)
        self._lock.truncate(0)
        self._lock.write(f"{os.getpid()}\n")
        self._lock.flush()

    def close(self) -> None:
        """Let another have it."""
        self._lock.close()

    def _try(self) -> bool:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True
