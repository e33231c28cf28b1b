"""The metrics of all processes as text for Prometheus; ages are reckoned at the moment of asking.

So an age also grows while the process that it is about hangs.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from server.telemetry import catalogue
from server.telemetry.catalogue import Family

_AGES = {of.name: age for of, age in catalogue.AGES.items()}


class Scrape(Collector):
    """Reads the folder at each ``render``. Safe for several threads."""

    def __init__(self, folder: Path, now_ms: Callable[[], int], version: str) -> None:
        self._folder = folder
        self._now_ms = now_ms
        self._version = version
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The text, and its content type, in the format that the Accept header asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def describe(self) -> Iterator[Metric]:
        """Nothing to say beforehand (so that registering does not read the folder)."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """All metrics; values that are no numbers (see ``learning``) are left out."""
        now_s = self._now_ms() / 1000
        build = _metric(catalogue.BUILD)
        build.add_sample(build.name, {"version": self._version, "python": platform.python_version()}, 1.0)
        yield build
        collector = MultiProcessCollector(None, str(self._folder))  # type: ignore[no-untyped-call]
        for metric in collector.collect():  # type: ignore[no-untyped-call]
            metric.samples = [sample for sample in metric.samples if not math.isnan(sample.value)]
            yield metric
            if (age := _AGES.get(metric.name)) is not None:
                aged = _metric(age)
                for sample in metric.samples:
                    aged.add_sample(aged.name, sample.labels, max(0.0, now_s - sample.value))
                yield aged


def _metric(family: Family) -> Metric:
    return Metric(family.name, family.meaning, family.kind)
