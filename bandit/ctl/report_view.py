"""A report as text for people; it reads protos, computes nothing, and no text in them is markup."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from bandit.ctl.coefficient_view import coefficient_view
from bandit.ctl.cohort_view import cohort_view
from bandit.ctl.render import WIDE, budget_lines
from bandit.ctl.tables import table as _table
from bandit.ctl.text import age, count, number, percent, plain, signed
from bandit.ctl.units_view import apart_lines, first_exposure_view
from bandit.v1 import experiment_pb2, report_pb2, spec_pb2

BAR = 24
SHOWN_EFFECT = 1.05
_FINDINGS = {
    report_pb2.Effect.FINDING_NOT_SHOWN: ("not shown", "dim"),
    report_pb2.Effect.FINDING_BETTER: ("BETTER", "green"),
    report_pb2.Effect.FINDING_WORSE: ("WORSE", "bold red"),
}
_METHODS = {
    report_pb2.Effect.METHOD_EXACT: "exact",
    report_pb2.Effect.METHOD_ASYMPTOTIC: "asymptotic",
}
_ARROWS = {spec_pb2.DIRECTION_MAXIMIZE: "(up)", spec_pb2.DIRECTION_MINIMIZE: "(down)"}


def report_view(report: report_pb2.Report, now_s: float, width: int) -> RenderableType:
    """One report: what is shown first, what it stands on after."""
    narrow = width < WIDE
    parts: list[RenderableType] = [_header(report, now_s)]
    if report.sample_ratio.mismatch:
        parts.append(Text(f"warning: {plain(report.sample_ratio.message)}", "bold red"))
    parts += [Text(), *_winner(report.winner), Text(), *_effects(report, narrow=narrow)]
    parts += first_exposure_view(report)
    parts += cohort_view(report, narrow=narrow)
    parts += apart_lines(report.apart, [arm.arm for arm in report.arms])
    parts += [Text(), *_means(report, narrow=narrow)]
    parts += coefficient_view(report.arms)
    parts += [Text(), *_guardrails(report, BAR // 3 if narrow else BAR)]
    parts += [Text(), *_traffic(report, narrow=narrow)]
    parts += [Text(f"note: {plain(note)}", "dim") for note in report.notes]
    return Group(*parts)


def _header(report: report_pb2.Report, now_s: float) -> RenderableType:
    title = Text.assemble((plain(report.name), "bold"), f"  report of epoch {report.epoch}")
    seen = age(now_s - report.evaluation_time.seconds - report.evaluation_time.nanos / 1e9)
    lines = [title, Text(f"hypothesis: {plain(report.hypothesis) or 'none was written down'}", "italic")]
    lines.append(Text(f"{count(report.decisions, 'decision')}, evaluated {seen}"))
    return Group(*lines)


def _winner(winner: report_pb2.Winner) -> list[RenderableType]:
    lines = [Text(f"winner: {plain(winner.message)}", "bold green" if winner.arm else "")]
    if winner.HasField("lift"):
        lines.append(
            Text(
                f"lift of the leading challenger in units of the objective: {signed(winner.lift)}, standard error "
                f"{number(winner.lift_se)}; measured after it led, so free of the winner's curse"
            )
        )
    return list(lines)


def _effects(report: report_pb2.Report, *, narrow: bool) -> list[RenderableType]:
    heads = ["METRIC", "ARM", ">EFFECT", f"|{report.level * 100:g} % INTERVAL", "|FINDING"]
    table = _table(
        *heads, *([] if narrow else ["|METHOD", ">REWARDS", ">OF CONTROL", ">ALL TRAFFIC", ">ITS SE"])
    )
    waiting, alike = [], []
    for metric in report.metrics:
        title = f"{plain(metric.metric)} {_ARROWS.get(metric.direction, '')}"
        for arm in metric.arms:
            if arm.HasField("effect"):
                waits = arm.n > 0 and metric.matured < 1.0
                table.add_row(title, *_effect_row(arm.arm, arm.effect, narrow=narrow, waits=waits))
                title = ""
        if metric.design_effect > SHOWN_EFFECT:
            alike.append(f"{plain(metric.metric)} {metric.design_effect:.1f}")
        if metric.matured < 1.0:
            waiting.append(f"{plain(metric.metric)} {metric.matured * 100:.0f} %")
    title = "objective (up)"
    for each in report.arms:
        if each.HasField("objective"):
            waits = any(arm.n for metric in report.metrics for arm in metric.arms)
            table.add_row(title, *_effect_row(each.arm, each.objective, narrow=narrow, waits=waits))
            title = ""
    told = "EFFECTS against the control. Each interval holds at every look, while shares and baseline move."
    lines: list[RenderableType] = [Text(told, "bold"), table]
    if alike:
        lines.append(
            Text("Units come back: so many rewards are the evidence of one: " + ", ".join(alike), "dim")
        )
    if waiting:
        lines.append(
            Text(
                "Only decisions whose attribution window is closed count here; so far of all decisions: "
                + ", ".join(waiting),
                "dim",
            )
        )
    return lines


def _effect_row(arm: str, effect: report_pb2.Effect, *, narrow: bool, waits: bool) -> list[Any]:
    """``waits``: there are rewards, of windows that are open."""
    word, style = _FINDINGS.get(effect.finding, ("?", ""))
    known = effect.HasField("estimate")
    row: list[Any] = [
        plain(arm),
        signed(effect.estimate) if known else "-",
        f"[{signed(effect.low)}, {signed(effect.high)}]"
        if effect.HasField("low")
        else "windows open"
        if waits
        else "no rewards yet",
        Text(word if known else "-", style),
    ]
    if known and not effect.HasField("low"):
        row[2] = "too few events yet"
    if not narrow:
        row += [_METHODS.get(effect.method, "-"), f"{effect.n:,}", f"{effect.n_control:,}"]
        row += [signed(effect.aipw), number(effect.aipw_se)] if effect.HasField("aipw") else ["-", "-"]
    return row


def _means(report: report_pb2.Report, *, narrow: bool) -> list[RenderableType]:
    heads = ["METRIC", "ARM", ">MEAN", ">CONTROL'S", ">REWARDS"]
    table = _table(
        *heads, *([] if narrow else [">N_EFF", ">COVERED", ">ANSWERED", "|IF ALL HAD"]), ">PLAIN, BIASED"
    )
    for metric in report.metrics:
        title = plain(metric.metric)
        for arm in metric.arms:
            row: list[Any] = [
                title,
                plain(arm.arm),
                number(arm.mean) if arm.HasField("mean") else "-",
                number(arm.control_mean) if arm.HasField("control_mean") else "-",
                f"{arm.n:,}",
            ]
            if not narrow:
                row += [
                    f"{arm.n_effective:,.0f}",
                    f"{arm.covered * 100:.0f} %",
                    f"{arm.answered * 100:.0f} %" if arm.HasField("answered") else "-",
                    f"{number(arm.least)} to {number(arm.most)}" if arm.most > arm.least else "-",
                ]
            biased = number(arm.plain_mean_biased) if arm.HasField("plain_mean_biased") else "-"
            table.add_row(*row, Text(biased, "dim"))
            title = ""
    return [
        Text("MEANS, each beside the control's over the same traffic.", "bold"),
        table,
        Text("Plain means are biased: adaptive allocation. Never compare those of two arms.", "dim"),
    ]


def _guardrails(report: report_pb2.Report, length: int) -> list[RenderableType]:
    if not report.verdicts:
        return [Text("no guardrail has judged yet")]
    table = _table("GUARDRAIL", "ARM", "|HARM", ">ln E / LIMIT", "|SAFE", ">ln E / LIMIT")
    for each in report.verdicts:
        judged = each.outcome != experiment_pb2.OUTCOME_NO_DATA
        table.add_row(
            plain(each.guardrail),
            plain(each.arm) + (f" {plain(each.cohort)}" if each.cohort else ""),
            Text(bar(each.log_e, each.log_threshold, length) if judged else "no data", "red"),
            f"{each.log_e:.1f} / {each.log_threshold:.1f}" if judged else "-",
            Text(bar(each.log_e_safe, each.log_threshold_safe, length) if judged else "", "green"),
            f"{each.log_e_safe:.1f} / {each.log_threshold_safe:.1f}" if judged else "-",
        )
    return [Text("GUARDRAILS, evidence so far as a part of what decides.", "bold"), table]


def bar(log_e: float, log_threshold: float, length: int) -> str:
    """Evidence over its limit, filled from 0 to 1, cut at both ends."""
    part = log_e / log_threshold if log_threshold > 0.0 and math.isfinite(log_e) else float(log_e > 0.0)
    # Full only when it decides: 0.99 is not there yet.
    filled = math.floor(length * min(max(part, 0.0), 1.0))
    return "#" * filled + "." * (length - filled)


def _traffic(report: report_pb2.Report, *, narrow: bool) -> list[RenderableType]:
    heads = [">SHARE", ">FLOOR", ">DECISIONS", ">P(best)"]
    chances = any(arm.HasField("feasible") for arm in report.arms)
    more = [] if narrow else [">EXP. LOSS", ">LARGEST WEIGHT"]
    keeps = [">P(KEEPS)"] if chances else []
    table = _table("ARM", *heads, *keeps, *more, ">LEAST P", ">MEAN WEIGHT")
    for arm in report.arms:
        row: list[Any] = [
            Text(plain(arm.arm)).append(" (control)" if arm.control and not narrow else "", "dim"),
            "ROLLED BACK" if arm.rolled_back else percent(arm.share_ppm),
            percent(arm.floor_ppm),
            f"{arm.decisions:,}",
            f"{arm.p_best:.3f}",
        ]
        if chances:
            row.append(f"{arm.feasible:.3f}" if arm.HasField("feasible") else "-")
        seen = arm.HasField("least_propensity")
        if not narrow:
            row += [number(arm.expected_loss), f"{arm.largest_weight:,.1f}" if seen else "-"]
        weight = f"{arm.mean_weight:.3f} +- {arm.mean_weight_se:.3f}" if arm.HasField("mean_weight") else "-"
        table.add_row(*row, f"{arm.least_propensity:.6f}" if seen else "-", weight)
    told = (
        "P(best) steers the shares and proves nothing."
        if narrow
        else ("P(best) and expected loss steer the shares and prove nothing.")
    )
    sentence = plain(report.sample_ratio.message)
    return [
        Text(f"ALLOCATION, not evidence: {told}", "bold"),
        table,
        *(Text(each, "dim") for each in budget_lines(report)),
        *([Text("P(keeps): chance that the arm keeps all constraints.", "dim")] if chances else []),
        Text("Least p: smallest share in any period. Mean weight must be 1 within 3 standard errors.", "dim"),
        Text(f"{sentence[:1].upper()}{sentence[1:]}.", "bold red" if report.sample_ratio.mismatch else "dim"),
    ]
