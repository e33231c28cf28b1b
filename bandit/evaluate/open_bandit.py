"""Comma-separated impressions in the form of the Open Bandit Dataset -> a log of decisions; rows stay as they are.

Columns (Saito, Aihara, Matsutani & Narita 2020, arXiv 2008.07146): timestamp, item_id, position, click, and
propensity_score (the files) or action_prob (the pipeline). Item 17 is the arm ``item-17`` of the spec, a click the
metric ``click``, told at once, and every other column an attribute of its name. An impression has no unit.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from bandit.errors import InvalidArgument
from bandit.evaluate.lines import EPOCH
from bandit.evaluate.logged import Collector, Logged
from bandit.spec.model import ExperimentSpec

METRIC = "click"
NEEDED = ("timestamp", "item_id", METRIC)
CHANCES = ("propensity_score", "action_prob")


def read_open_bandit(lines: Iterable[str], spec: ExperimentSpec, place: str) -> Logged:
    """The log in these lines, of which the first names the columns. Raises InvalidArgument with every fault and its
    line, up to twenty, and for columns that are missing."""
    reader = csv.DictReader(lines)
    collector = Collector(spec, place)
    try:
        names = tuple(reader.fieldnames or ())
        chance = next((name for name in CHANCES if name in names), None)
        missing = [name for name in NEEDED if name not in names]
        if missing or chance is None:
            wanted = ", ".join(missing or [" or ".join(CHANCES)])
            raise InvalidArgument(
                f"{place}:1:1: no column {wanted}; write {', '.join(NEEDED)}, {' or '.join(CHANCES)}"
            )
        others = [name for name in names if name and name not in (*NEEDED, *CHANCES)]
        for fields in reader:
            _row(collector, reader.line_num, fields, chance, others)
    except csv.Error as error:
        collector.fault(reader.line_num, "", f"no row: {error}; quote what holds commas or line ends")
    return collector.finish()


def _row(
    collector: Collector, line: int, fields: dict[str, str | None], chance: str, others: list[str]
) -> None:
    if None in fields or any(fields[name] is None for name in (*NEEDED, chance)):
        collector.fault(line, "", "more or fewer values than columns; write one for each")
        return
    told = {name: text or "" for name, text in fields.items()}
    try:
        moment = datetime.fromisoformat(told["timestamp"])
    except ValueError:
        collector.fault(
            line, "timestamp", f"{told['timestamp'][:40]!r} is no time; write 2019-11-24 00:00:01+00:00"
        )
        return
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    numbers = []
    for name in (chance, METRIC):
        try:
            numbers.append(float(told[name]))
        except ValueError:
            collector.fault(line, name, f"{told[name][:40]!r} is no number")
            return
    decision = collector.decision(
        line,
        time_ms=math.floor((moment - EPOCH) / timedelta(milliseconds=1)),
        arm=f"item-{told['item_id']}",
        propensity=numbers[0],
        attributes={name: told[name] for name in others},
    )
    if decision is not None:
        collector.reward(line, decision, METRIC, numbers[1])
