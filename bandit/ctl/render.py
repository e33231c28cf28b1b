"""Status, lists and audit as text for people; it reads protos and decides nothing, and no text in them is markup."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Sequence
from typing import IO, Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from bandit.client.words import enum_text
from bandit.ctl.coefficient_view import coefficient_view
from bandit.ctl.tables import table as _table
from bandit.ctl.text import age, count, moment, number, percent, plain
from bandit.ctl.units_view import apart_lines, realised_lines
from bandit.v1 import experiment_pb2 as pb
from bandit.v1 import report_pb2

# Below this many columns, long sentences go under their table.
WIDE = 110
_PIPE_WIDTH = 4000
_OUTCOMES = {
    pb.OUTCOME_PASS: ("PASS", "green"),
    pb.OUTCOME_FAIL: ("FAIL", "bold red"),
    pb.OUTCOME_INCONCLUSIVE: ("INCONCLUSIVE", "yellow"),
    pb.OUTCOME_NO_DATA: ("NO_DATA", "dim"),
}
_STATES = {
    pb.EXPERIMENT_STATE_DRAFT: ("DRAFT", "dim"),
    pb.EXPERIMENT_STATE_RUNNING: ("RUNNING", "green"),
    pb.EXPERIMENT_STATE_PAUSED: ("PAUSED", "yellow"),
    pb.EXPERIMENT_STATE_CONCLUDED: ("CONCLUDED", "cyan"),
}


def screen(file: IO[str] | None = None) -> Console:
    """A console for stdout: as wide as the terminal, or in a pipe so wide that nothing is cut or wrapped."""
    stream = file or sys.stdout
    piped = not stream.isatty() and "COLUMNS" not in os.environ
    return Console(
        file=stream,
        width=_PIPE_WIDTH if piped else None,
        markup=False,
        emoji=False,
        highlight=False,
        soft_wrap=False,
        legacy_windows=False,
    )


def show(console: Console, renderable: RenderableType) -> None:
    """Prints without the blanks that tables leave at line ends."""
    with console.capture() as captured:
        console.print(renderable)
    console.file.write("".join(f"{line.rstrip(' ')}\n" for line in captured.get().splitlines()))
    console.file.flush()


def state_text(state: pb.ExperimentState.ValueType) -> Text:
    """RUNNING in its colour; the number of a state that this version does not know."""
    word, style = _STATES.get(state, (enum_text(pb.ExperimentState.DESCRIPTOR, state).upper(), ""))
    return Text(word, style)


def status_view(status: pb.ExperimentStatus, now_s: float, width: int) -> RenderableType:
    """One experiment: header, shares, metrics, guardrails, counts, warnings."""
    # Warnings first: a short terminal cuts what is at the end.
    warnings = [Text(f"warning: {plain(warning)}", "bold yellow") for warning in status.warnings]
    parts: list[RenderableType] = [_header(status, now_s), *warnings, Text()]
    parts.append(_arms(status, narrow=width < WIDE))
    parts += realised_lines(status)
    parts += apart_lines(status.allocation.apart, [arm.arm for arm in status.arms])
    parts.append(Text("P(best) and loss steer the allocation; they are not evidence.", "dim"))
    if _judged(status):
        parts += [Text(each, "dim") for each in (*_distance(status), *budget_lines(status))]
    if any(arm.metrics for arm in status.arms) and _judged(status):
        parts += [Text(), _metrics(status)]
    parts += coefficient_view(status.arms)
    parts.append(Text())
    parts += _guardrails(status, narrow=width < WIDE)
    parts += [Text(), _counts(status)]
    return Group(*parts)


def status_line(status: pb.ExperimentStatus) -> str:
    """One experiment on one line, for a pipe."""
    shares = " ".join(f"{plain(arm.arm)} {percent(arm.share_ppm)}" for arm in status.arms)
    bad = [
        f"{_OUTCOMES[verdict.outcome][0]} {plain(verdict.guardrail)} {plain(verdict.arm)}"
        for verdict in status.verdicts
        if verdict.outcome == pb.OUTCOME_FAIL
    ]
    rolled = [f"rolled back {plain(arm.arm)}" for arm in status.arms if arm.state.HasField("rollback")]
    held = [f"held {plain(arm.arm)}" for arm in status.arms if arm.state.HasField("hold_ppm")]
    state = state_text(status.state).plain
    head = f"{moment(status.evaluation_time)} {plain(status.name)} {state} epoch {status.epoch}"
    parts = [f"{head} allocation {status.allocation.number}", shares, count(status.exposures, "exposure")]
    apart = [f"apart {plain(each.cohort)}" for each in status.allocation.apart]
    parts += [count(status.rewards.applied, "reward"), *bad, *rolled, *held, *apart]
    parts += [f"warning: {plain(warning)}" for warning in status.warnings]
    return " | ".join(parts)


def experiments_view(experiments: Iterable[pb.Experiment]) -> RenderableType:
    """A list of experiments."""
    table = _table("NAME", "|STATE", ">EPOCH", ">ARMS", "ROLLED BACK", "|UPDATED", "HYPOTHESIS")
    for each in experiments:
        rolled = [arm.name.rpartition("/")[2] for arm in each.arms if arm.HasField("rollback")]
        table.add_row(
            plain(each.name.removeprefix("experiments/")),
            state_text(each.state),
            str(each.epoch),
            str(len(each.spec.arms)),
            Text(", ".join(map(plain, rolled)) or "-", "red" if rolled else ""),
            moment(each.update_time),
            plain(each.spec.hypothesis) or "-",
        )
    return table if table.row_count else Text("no experiments")


def audit_view(records: Iterable[pb.AuditRecord], arms: Sequence[str]) -> RenderableType:
    """Audit records, newest first; ``arms`` names the shares as far as the number of arms fits."""
    table = _table(">NO", "|TIME", "ACTOR", "|ACTION", "|STATE", "SHARES", "REASON")
    for each in records:
        before, after = state_text(each.state_before), state_text(each.state_after)
        moved = Text.assemble(before, " -> ", after) if each.state_before != each.state_after else after
        reason = each.reason or each.verdict.message
        table.add_row(
            str(each.sequence),
            moment(each.time),
            plain(each.actor) or "-",
            plain(each.action),
            after if not each.state_before else moved,
            _shares(each.shares_after_ppm, arms),
            plain(reason) or "-",
        )
    return table if table.row_count else Text("no records")


def _shares(shares_ppm: Sequence[int], arms: Sequence[str]) -> str:
    names = arms if len(arms) == len(shares_ppm) else [f"arm {index}" for index in range(len(shares_ppm))]
    return (
        ", ".join(f"{plain(name)} {percent(ppm)}" for name, ppm in zip(names, shares_ppm, strict=True)) or "-"
    )


def _header(status: pb.ExperimentStatus, now_s: float) -> RenderableType:
    allocation = status.allocation
    title = Text.assemble((plain(status.name), "bold"), "  ", state_text(status.state))
    title.append(f"  epoch {status.epoch}  allocation {allocation.number}")
    lines = [title]
    if allocation.cause:
        lines.append(Text(f"shares since {moment(allocation.time)}: {plain(allocation.cause)}"))
    judged = status.evaluation_time
    seen = age(now_s - judged.seconds - judged.nanos / 1e9) if _judged(status) else "never"
    behind = count(status.log_entries_behind, "log entry", "log entries")
    lines.append(
        Text(f"evaluated {seen}, {behind} behind, {count(status.periods, 'period')} kept, etag {status.etag}")
    )
    if status.partitions:
        parts = "; ".join(map(_partition, status.partitions))
        lines.append(Text(f"in {len(status.partitions)} partitions: {parts}"))
    return Group(*lines)


def _partition(each: pb.PartitionStatus) -> str:
    seen = f"{each.partition}: {count(each.exposures, 'exposure')}, {count(each.rewards_applied, 'reward')}"
    return f"{seen}, {each.log_entries_behind:,} behind" if each.log_entries_behind else seen


def _distance(status: pb.ExperimentStatus) -> list[str]:
    """How far it is to telling the best arm, while it runs with at least two arms."""
    alive = sum(not arm.state.HasField("rollback") for arm in status.arms)
    if any(arm.coefficients for arm in status.arms):
        return []  # no arm is best for all requests
    if status.state != pb.EXPERIMENT_STATE_RUNNING or alive < 2:
        return []
    if not status.HasField("requests_more"):
        return [
            "To tell the best arm: two arms seem equally good so far, so nobody can say how many requests more."
        ]
    if status.requests_more < 1:
        return [
            "To tell the best arm: requests enough, if the means are what they seem; the report says what is shown."
        ]
    return [
        f"To tell the best arm: about {status.requests_more:,.0f} more requests, if the means are what they seem."
    ]


def budget_lines(shown: pb.ExperimentStatus | report_pb2.Report) -> list[str]:
    """What the day has spent and what follows from it; nothing without a budget."""
    if not shown.HasField("budget"):
        return []
    each = shown.budget
    seen = f"Budget of {plain(each.metric)} since midnight UTC: {number(each.spent)} of {number(each.per_day)} spent"
    if each.HasField("allowed"):
        seen += f"; {number(each.allowed)} per request are left for about {each.requests_expected:,.0f} more"
    if each.price == 0:
        return [f"{seen}. The shares keep it without a price."]
    if math.isinf(each.price):
        return [f"{seen}. Only floors and the cheapest arm are left."]
    return [f"{seen}. A unit costs an arm {number(each.price)} of the objective."]


def _judged(status: pb.ExperimentStatus) -> bool:
    """Whether a learner has looked at it at all."""
    return bool(status.evaluation_time.seconds)


def _arms(status: pb.ExperimentStatus, *, narrow: bool) -> RenderableType:
    chances = any(arm.HasField("feasible") for arm in status.arms)
    heads = [">P(best)", ">EXP. LOSS", *([">P(KEEPS)"] if chances else []), "STATE"]
    table = _table("ARM", ">SHARE", ">FLOOR..CAP", ">EXPOSURES", *heads)
    notes: list[RenderableType] = []
    for arm in status.arms:
        state, note = _arm_state(arm)
        name = Text(plain(arm.arm)).append(" (control)" if arm.control else "", "dim")
        table.add_row(
            name,
            Text(percent(arm.share_ppm), "bold"),
            f"{percent(arm.floor_ppm)}..{percent(arm.cap_ppm)}".replace(" %..", ".."),
            f"{arm.exposures:,}",
            _p_best(arm.p_best) if _judged(status) else "-",
            number(arm.expected_loss) if _judged(status) else "-",
            *([_p_best(arm.feasible) if arm.HasField("feasible") else "-"] if chances else []),
            state if narrow or not note else Text.assemble(state, Text(f": {note}")),
        )
        if narrow and note:
            notes.append(Text(f"{plain(arm.arm)}: {note}", "red"))
    return Group(table, *notes) if notes else table


def _arm_state(arm: pb.ArmStatus) -> tuple[Text, str]:
    state = arm.state
    attempt = f"attempt {state.attempt}" if state.attempt > 1 else ""
    if state.HasField("rollback"):
        rollback = state.rollback
        why = f"{moment(rollback.time)} by {plain(rollback.actor)}: {plain(rollback.reason)}"
        return Text("ROLLED BACK", "bold red"), why
    if state.HasField("hold_ppm"):
        return Text(f"HELD at {percent(state.hold_ppm)}", "yellow"), ""
    return Text(attempt or "-"), ""


def _p_best(value: float) -> str:
    if not math.isfinite(value):
        return "-"
    if 0 < value < 0.001:
        return "<0.001"
    return ">0.999" if 0.999 < value < 1 else f"{value:.3f}"


def _metrics(status: pb.ExperimentStatus) -> RenderableType:
    table = _table("ARM", "METRIC", ">MEAN", "|95 % INTERVAL", ">REWARDS", ">THEIR MEAN")
    for arm in status.arms:
        for metric in arm.metrics:
            interval = f"[{number(metric.posterior_low)}, {number(metric.posterior_high)}]"
            table.add_row(
                plain(arm.arm),
                plain(metric.metric),
                number(metric.posterior_mean),
                interval,
                f"{metric.n:,}",
                number(metric.mean) if metric.n else "-",
            )
    return table


def _guardrails(status: pb.ExperimentStatus, *, narrow: bool) -> list[RenderableType]:
    if not status.verdicts:
        return [Text("no guardrail has judged yet")]
    heads = ["ARM", "GUARDRAIL", "|OUTCOME", ">ln E / LIMIT", ">SEEN", ">AGAINST"]
    table = _table(*heads, *([] if narrow else ["MESSAGE"]))
    notes: list[RenderableType] = []
    for each in status.verdicts:
        word, style = _OUTCOMES.get(each.outcome, (enum_text(pb.Outcome.DESCRIPTOR, each.outcome), ""))
        nothing = each.outcome == pb.OUTCOME_NO_DATA
        row: list[Any] = [
            plain(each.arm),
            plain(each.guardrail),
            Text(word, style),
            "-" if nothing else f"{each.log_e:.2f} / {each.log_threshold:.2f}",
            "-" if nothing else number(each.observed),
            "-" if nothing else number(each.reference),
        ]
        if not narrow:
            row.append(plain(each.message))
        elif each.message and not nothing:
            notes.append(Text(f"{plain(each.arm)}/{plain(each.guardrail)}: {plain(each.message)}", style))
        table.add_row(*row)
    return [table, *notes]


def _counts(status: pb.ExperimentStatus) -> Text:
    counts = status.rewards
    parts = [
        count(status.exposures, "exposure"),
        f"{count(counts.applied, 'reward')} counted",
        f"{counts.duplicate:,} duplicate",
        f"{counts.conflict:,} conflicting",
        *([f"{counts.superseded:,} superseded"] if counts.superseded else []),
        f"{counts.late:,} late",
        f"{counts.rejected:,} rejected",
    ]
    line = Text(", ".join(parts))
    if status.exposures_lost:
        line.append(f", {count(status.exposures_lost, 'exposure')} lost", "bold red")
    return line
