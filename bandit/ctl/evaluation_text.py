"""An evaluation as text for people and as a document for scripts; it values nothing."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bandit.ctl.render import WIDE
from bandit.ctl.tables import table
from bandit.ctl.text import count, number, plain, signed, span
from bandit.evaluate.outcome import Evaluation, Span

TOLD = (
    *("mode", "counts", "range", "logged", "estimates", "anytime", "anytime_lift", "trust", "accepted"),
    *("metrics", "arms", "falls", "warnings"),
)


def evaluation_view(found: Evaluation, width: int) -> RenderableType:
    """What was valued and by how much of the log, the values, arms, metrics, what guardrails did, doubts.

    ``width``: columns of the terminal; where they are few, errors and counts that intervals tell too are left out.
    """
    counts, narrow = found.counts, width < WIDE
    head = Text(f"{plain(found.experiment)} by {found.mode}", "bold")
    head.append(
        f"  {count(counts.decisions, 'decision')}, {counts.valued:,} valued, "
        f"{count(counts.looks, 'look')} each {span(counts.every_s)}",
        "dim",
    )
    parts: list[RenderableType] = [head, *_lines(found), Text(), _estimates(found, narrow=narrow)]
    if found.anytime is not None:
        low, high = found.anytime
        held = f"holds at every look, whatever the weights: {number(low)} to {number(high)}"
        if found.anytime_lift is not None:
            held += f"; than the log {signed(found.anytime_lift[0])} to {signed(found.anytime_lift[1])}"
        parts.append(Text(held, "dim"))
    parts += [Text(), _arms(found), Text(), _metrics(found, narrow=narrow)]
    for fall in found.falls:
        at = datetime.fromtimestamp(fall.time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        done = fall.action.replace("_", " ")
        parts.append(Text(f"{at}  {plain(fall.arm)} {done}: {plain(fall.message)}", "red"))
    parts += [Text(f"note: {plain(sentence)}", "yellow") for sentence in found.warnings]
    return Group(*parts)


def _lines(found: Evaluation) -> list[Text]:
    counts, trust = found.counts, found.trust
    left = [
        (counts.pending, "with an open window"),
        (counts.unanswered, "without a reward"),
        (counts.uncounted, "not drawn by shares"),
    ]
    told = ", ".join(f"{many:,} {why}" for many, why in left if many)
    lines = [Text(f"left out: {told}")] if told else []
    if counts.late:
        lines.append(Text(f"{count(counts.late, 'reward')} came after the window and did not count"))
    logged = found.logged
    lines.append(
        Text(
            f"the log was worth {number(logged.value)} +- {number(logged.se)} ({_ends(logged)}), within "
            f"{number(found.range[0])} to {number(found.range[1])}"
        )
    )
    if trust is not None:
        lines.append(
            Text(
                f"effective decisions {trust.effective:,.0f}, mean weight {trust.mean_weight:.3f}, largest "
                f"{trust.largest_weight:.3g}, least propensity {trust.least_propensity:.2g}"
            )
        )
    if found.accepted is not None:
        lines.append(Text(f"accepted {count(found.accepted, 'decision')}"))
    return lines


def _estimates(found: Evaluation, *, narrow: bool) -> Table:
    error = () if narrow else (">+-",)
    more = ">MORE" if narrow else ">MORE THAN THE LOG"
    made = table("|ESTIMATOR", ">VALUE", *error, ">95 %", more, *error, ">95 %")
    for each in found.estimates:
        row = [each.estimator]
        for told, write in ((each.value, number), (each.lift, signed)):
            row += [write(told.value), *(() if narrow else (number(told.se),)), _ends(told)]
        made.add_row(*row)
    return made


def _arms(found: Evaluation) -> Table:
    made = table("ARM", ">DECISIONS", ">OF THE LOG", ">SHARE", ">LAST SHARE")
    for arm in found.arms:
        made.add_row(
            plain(arm.arm),
            f"{arm.decisions:,}",
            f"{100 * arm.logged:.1f} %",
            f"{100 * arm.share:.1f} %",
            f"{100 * arm.last:.1f} %",
        )
    return made


def _metrics(found: Evaluation, *, narrow: bool) -> Table:
    heads = ("METRIC", ">LOG", ">SPEC", ">MORE", ">95 %")
    made = table(*heads) if narrow else table("METRIC", ">DECISIONS", *heads[1:3], ">95 %", *heads[3:])
    for metric in found.metrics:
        row = [
            number(metric.logged),
            number(metric.value.value),
            signed(metric.lift.value),
            _ends(metric.lift),
        ]
        if not narrow:
            row = [f"{metric.decisions:,}", *row[:2], _ends(metric.value), *row[2:]]
        made.add_row(plain(metric.metric), *row)
    return made


def _ends(found: Span) -> str:
    return f"{number(found.low)} to {number(found.high)}"


def document(found: Evaluation) -> dict[str, Any]:
    """An evaluation as plain values; shares over time are left to the picture. What is no number is null."""
    return {"experiment": found.experiment} | {name: _plain(getattr(found, name)) for name in TOLD}


def _plain(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    fields = getattr(value, "_fields", None) or getattr(type(value), "__dataclass_fields__", None)
    if fields is not None:
        return {name: _plain(getattr(value, name)) for name in fields}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value
