"""Metrics of several processes in one folder of small mapped files, read by the HTTP edge; it serves nothing.

A part keeps its file over restarts: its counters go on, and a part that dies again and again leaves no pile of files.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from server.telemetry.catalogue import MOST_WORDS, OTHER, Family

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


def folder_of(data_dir: Path) -> Path:
    """Where the processes of one banditd keep their metrics."""
    return data_dir / "metrics"


def clean(folder: Path) -> None:
    """Make the folder, empty; for its only owner, before any part starts."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for file in folder.glob("*.db"):
        file.unlink()


def join(folder: Path, part: str) -> None:
    """Keep this process's metrics in the folder under the name of its part; before its first metric is made.

    No two living processes may have the name. It must not hold an underscore, which separates names of files.
    """
    assert "_" not in part, part
    os.environ[VARIABLE] = str(folder)
    from prometheus_client import values

    for file in folder.glob(f"*_{part}.db"):
        if not _is_whole(file):
            file.unlink()  # counts are worth less than a part that starts
    if hasattr(os, "memfd_create"):  # Linux
        from server.telemetry.mapped import Mapped

        values.MmapedDict = Mapped  # type: ignore[attr-defined]
    values.ValueClass = values.MultiProcessValue(lambda: part)  # type: ignore[no-untyped-call]


def _is_whole(file: Path) -> bool:
    """Can the library go on with this file? Its first four bytes say how much of it is used."""
    from prometheus_client.mmap_dict import MmapedDict

    content = file.read_bytes()
    used = int.from_bytes(content[:4], sys.byteorder, signed=True)
    if not 0 <= used <= len(content):
        return False
    try:
        for key, *_ in MmapedDict.read_all_values_from_file(str(file)):  # type: ignore[no-untyped-call]
            json.loads(key)
    except Exception:  # noqa: BLE001 - damaged bytes raise anything
        return False
    return True


def forget(folder: Path, part: str) -> None:
    """The process of a part is dead: its gauges no longer say how things are. Its counters stay."""
    for file in folder.glob(f"gauge_live*_{part}.db"):
        with suppress(FileNotFoundError):
            file.unlink()


def counter(family: Family, registry: CollectorRegistry) -> Counter:
    """A counter of the catalogue."""
    from prometheus_client import Counter

    return Counter(family.name, family.meaning, family.labels, registry=registry)


def gauge(family: Family, registry: CollectorRegistry) -> Gauge:
    """A gauge of the catalogue."""
    from prometheus_client import Gauge

    return Gauge(
        family.name, family.meaning, family.labels, registry=registry, multiprocess_mode=family.merge
    )


def histogram(family: Family, registry: CollectorRegistry) -> Histogram:
    """A histogram of the catalogue."""
    from prometheus_client import Histogram

    return Histogram(family.name, family.meaning, family.labels, registry=registry, buckets=family.bounds)


def observe_many(histogram: Histogram, buckets: Iterable[int], sum_s: float) -> None:
    """Add observations that were counted elsewhere, in the buckets of this (child of a) histogram."""
    # The library can only observe one at a time; its cells are private, so a test watches what comes out.
    for cell, count in zip(histogram._buckets, buckets, strict=True):
        if count:
            cell.inc(count)
    histogram._sum.inc(sum_s)


class Bounded:
    """Lets the first so many values of a label through; all others are `other`."""

    def __init__(self, most: int = MOST_WORDS) -> None:
        self._most = most
        self._seen: set[str] = set()

    def __call__(self, word: str) -> str:
        if word not in self._seen:
            if len(self._seen) >= self._most:
                return OTHER
            self._seen.add(word)
        return word

    def release(self, word: str) -> None:
        """Make room for another."""
        self._seen.discard(word)
