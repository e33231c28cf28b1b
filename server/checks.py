"""What is right and wrong with a machine, row by row: folder, disk, snapshot, places of sources; it changes nothing."""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from server.config import Config
from server.store.findings import Finding

_LEAST_FREE = 1 << 30
_OLD_S = 3600.0
_WITHIN_S = 2.0
_AT_ONCE = 8
_HOST_PORT = re.compile(r"(?:^|[/@,\s])([A-Za-z0-9._-]+):([0-9]{1,5})(?=$|[/,?\s])")


def machine(config: Config) -> list[Finding]:
    """Rows of the machine; the log is told of them at each start."""
    own = [_folder(config.data_dir), _room(config), _snapshot(config.data_dir)]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return [*own, *pool.map(_source, config.sources)]


def _folder(path: Path) -> Finding:
    wanted = "a folder of this user that nobody else may read: chmod 700"
    try:
        state = path.stat()
    except FileNotFoundError:
        return Finding("data_dir", f"{path} is not there yet; the first start makes it", wanted, True, False)
    except OSError as error:
        return Finding("data_dir", f"{path}: {error.strerror}", wanted, False, True)
    mode, own = stat.S_IMODE(state.st_mode), state.st_uid == os.geteuid()
    writable = os.access(path, os.W_OK | os.X_OK)
    seen = f"{path}, mode {mode:o}" + ("" if own else f", of user {state.st_uid}")
    return Finding("data_dir", seen, wanted, writable and own and not mode & 0o077, not writable)


def _room(config: Config) -> Finding:
    there = next(each for each in (config.data_dir, *config.data_dir.parents) if each.exists())
    free = shutil.disk_usage(there).free
    needed = max(config.journal_bytes * 5 // 4, _LEAST_FREE)
    return Finding(
        "disk",
        f"{free / 2**30:.1f} GiB free",
        f"{needed / 2**30:.1f} GiB, so that decisions are kept while the store is away",
        free >= needed,
        False,
    )


def _snapshot(data_dir: Path) -> Finding:
    wanted = f"a snapshot of the last {_OLD_S / 3600:g} h, to start from when the store is away"
    files = [path for path in (data_dir / "snapshot").glob("*") if path.is_file()]
    if not files:
        return Finding("snapshot", "none yet: a start without the store waits for it", wanted, True, False)
    newest = max(files, key=lambda path: path.stat().st_mtime)
    age_s = max(time.time() - newest.stat().st_mtime, 0.0)
    private = not stat.S_IMODE(newest.stat().st_mode) & 0o077
    seen = f"{newest.name}, {age_s:.0f} s old" + ("" if private else ", readable by others")
    return Finding("snapshot", seen, wanted, private and age_s <= _OLD_S, False)


def _source(settings: Mapping[str, object]) -> Finding:
    """Can each place that a source names be connected to, or is its file there?"""
    name = f"source {settings.get('name', '?')}"
    wanted = "everything that it names to answer, or to be there"
    places = [place for value in settings.values() for place in _places(value)]
    silent = [f"{host}:{port}" for host, port in places if not _answers(host, port)]
    path = settings.get("path")
    if isinstance(path, str) and not any(Path("/").glob(path.lstrip("/"))):
        silent.append(path)
    if silent:
        return Finding(name, f"{settings.get('kind')}: not there: {', '.join(silent)}", wanted, False, False)
    shown = ", ".join(f"{host}:{port}" for host, port in places) or path or "names no place to look at"
    return Finding(name, f"{settings.get('kind')}: {shown}", wanted, True, False)


def _places(value: object) -> list[tuple[str, int]]:
    if isinstance(value, list | tuple):
        return [place for each in value for place in _places(each)]
    if not isinstance(value, str):
        return []
    return [(host, int(port)) for host, port in _HOST_PORT.findall(value)]


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=_WITHIN_S):
            return True
    except OSError:
        return False
