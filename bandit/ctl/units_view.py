"""Cohorts that are apart, traffic that outgrew its share, and effects on settled units, as text for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from bandit.ctl.tables import table as table_of
from bandit.ctl.text import number, percent, plain, signed
from bandit.v1 import experiment_pb2, report_pb2

PPM = 1_000_000


def apart_lines(apart: Sequence[experiment_pb2.ApartCohort], arms: Sequence[str]) -> list[Text]:
    """A line for each cohort with shares of its own: which, and why."""
    lines = []
    for each in apart:
        shares = ", ".join(
            f"{plain(arm)} {percent(ppm)}" for arm, ppm in zip(arms, each.shares_ppm, strict=False)
        )
        lines.append(
            Text.assemble(
                (f"cohort {plain(each.cohort)} is apart", "bold"),
                f": {shares}; {plain(each.arm)} has another effect there than in the others with "
                f"{each.chance * 100:.1f} % chance",
            )
        )
    return lines


def realised_lines(status: experiment_pb2.ExperimentStatus) -> list[Text]:
    """A line for each arm whose share is held so that its traffic keeps to its cap."""
    return [
        Text(
            f"{plain(arm.arm)}: {percent(arm.realised_ppm)} of the newest decisions are its own, by units that come "
            f"back; its share is held at {percent(arm.realised_most_ppm)}, so that traffic keeps to the cap of "
            f"{percent(arm.cap_ppm)}",
            "yellow",
        )
        for arm in status.arms
        if arm.HasField("realised_most_ppm")
    ]


def first_exposure_view(report: report_pb2.Report) -> list[RenderableType]:
    """Effects on units that met no other arm; nothing where units do not keep their arm."""
    if not report.HasField("censored_units"):
        return []
    table = table_of("METRIC", "ARM", ">EFFECT", ">ITS SE", "|95 % INTERVAL AT ONE LOOK")
    for metric in report.metrics:
        title = plain(metric.metric)
        for arm in metric.arms:
            if arm.HasField("first_exposure"):
                each = arm.first_exposure
                shown = (
                    f"[{signed(each.low)}, {signed(each.high)}]"
                    if each.HasField("se")
                    else "too few units yet"
                )
                se = number(each.se) if each.HasField("se") else "-"
                table.add_row(title, plain(arm.arm), signed(each.estimate), se, shown)
                title = ""
    moved = (
        f"{percent(round(report.censored_units * PPM))} of the units were re-routed since arms are compared"
    )
    if report.HasField("censored_decisions"):
        moved += f", and made {percent(round(report.censored_decisions * PPM))} of the decisions"
    lines: list[RenderableType] = [
        Text(),
        Text("FIRST EXPOSURE: units that met no other arm, free of what they remember of one.", "bold"),
    ]
    lines.append(
        table if table.row_count else Text("No arm and the control both have such units with rewards yet.")
    )
    return [*lines, Text(f"{moved}; they are left out here.", "dim")]
