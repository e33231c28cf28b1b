"""One moment of the demo as a picture for a terminal, or as lines for a pipe; it asks nobody anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bandit.v1 import experiment_pb2 as pb
from server.demo.happenings import Event, percent

WIDE = 110
TALL = 30
_BLOCKS = " ▏▎▍▌▋▊▉█"
_OUTCOMES = {
    pb.OUTCOME_PASS: ("PASS", "green"),
    pb.OUTCOME_FAIL: ("FAIL", "bold red"),
    pb.OUTCOME_INCONCLUSIVE: ("undecided", "dim"),
    pb.OUTCOME_NO_DATA: ("no data", "dim"),
}
_KINDS = {
    "shares": ("shares", "cyan"),
    "verdict": ("verdict", "yellow"),
    "rollback": ("ROLLBACK", "bold red"),
    "hold": ("hold", "yellow"),
    "warning": ("warning", "yellow"),
    "world": ("world", "magenta"),
}


@dataclass(slots=True)
class Moment:
    """What is shown: the newest status (None before the first), the world's own counts, the latest events.

    ``note``: what is waited for, before the world begins. ``commands``: what to try meanwhile.
    """

    experiment: str
    commands: str = ""
    status: pb.ExperimentStatus | None = None
    note: str = ""
    at_s: float = 0.0
    until_s: float | None = None
    decisions: int = 0
    rewards: int = 0
    decisions_per_s: float = 0.0
    rewards_per_s: float = 0.0
    verdicts: Mapping[tuple[str, str], pb.Verdict] = field(default_factory=dict)
    events: Sequence[Event] = ()


def picture(moment: Moment, width: int, height: int) -> RenderableType:
    """All of it, at most ``height`` lines: the oldest events give way."""
    head = _head(moment)
    if moment.note or moment.status is None:
        return head
    arms, guardrails, foot = (
        _arms(moment.status, width),
        _guardrails(moment, width),
        _foot(moment, tall=height >= TALL),
    )
    # Head and two tables with their heads, a blank line before each part, and the cursor's own line.
    used = 1 + (2 + arms.row_count) + (2 + guardrails.row_count) + 1 + (1 + len(foot)) + 1
    parts = [head, Text(), arms, Text(), guardrails, Text(), *_events(moment.events, width, height - used)]
    return Group(*parts, Text(), *foot)


def second_line(moment: Moment) -> str:
    """The moment on one line, for a pipe."""
    parts = [f"{moment.at_s:6.1f} s", f"decisions {moment.decisions}", f"rewards {moment.rewards}"]
    if moment.status is not None and moment.decisions:
        parts += [
            f"{arm.arm} {percent(arm.share_ppm)}, best with {arm.p_best:.3f}" for arm in moment.status.arms
        ]
    if moment.note:
        parts.append(moment.note)
    return " | ".join(parts)


def event_line(event: Event) -> str:
    """An event on one line, for a pipe."""
    return f"{event.at_s:6.1f} s | {_KINDS[event.kind][0]}: {event.text}"


def bar(part: float, width: int) -> str:
    """``part`` of ``width`` cells as blocks, an eighth of a cell fine; anything above 0 shows something."""
    eighths = min(max(round(part * width * 8), 1 if part > 0 else 0), width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_BLOCKS[rest] if rest else "")).ljust(width)


def _head(moment: Moment) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(f"banditd demo: {moment.experiment}", "bold")
    if moment.note:
        text.append(f"  {moment.note}", "yellow")
        return text
    span = f" of {moment.until_s:.0f}" if moment.until_s is not None else ""
    text.append(f"  {moment.at_s:.0f}{span} s", "bold cyan")
    text.append(f"  {moment.decisions_per_s:,.0f} decisions/s, {moment.rewards_per_s:,.0f} rewards/s")
    return text


def _ledger(status: pb.ExperimentStatus) -> str:
    counts = status.rewards
    return (
        f"Ledger: {status.exposures:,} decisions, {counts.applied:,} rewards, {counts.duplicate:,} sent twice and "
        "counted once."
    )


def _arms(status: pb.ExperimentStatus, width: int) -> Table:
    wide = width >= WIDE
    heads = ["VARIANT", "SHARE", "", ">SATISFIED %", ">COST $/1000", ">UNSAFE %"]
    table = _table(*heads, *([">LATENCY ms", ">P(BEST)", ">DECISIONS"] if wide else [">P(BEST)"]))
    best = max(arm.share_ppm for arm in status.arms)
    for arm in status.arms:
        style = "green" if arm.share_ppm == best and not arm.control else "blue"
        metrics = {metric.metric: metric for metric in arm.metrics}
        share = Text(bar(arm.share_ppm / 1e6, 28 if wide else 14), style)
        name = Text(arm.arm, "bold")
        if arm.state.HasField("rollback"):
            name.stylize("bold red")
            share = Text("rolled back", "bold red")
        elif arm.state.HasField("hold_ppm"):
            name.stylize("yellow")
        cells: list[RenderableType] = [
            name,
            share,
            Text(percent(arm.share_ppm), justify="right"),
            _belief(metrics.get("satisfied"), 100, 1),
            _belief(metrics.get("cost_usd"), 1000, 2),
            _belief(metrics.get("unsafe"), 100, 1),
        ]
        if wide:
            cells.append(_belief(metrics.get("latency_ms"), 1, 0))
        cells.append("-" if arm.state.HasField("rollback") else _probability(arm.p_best))
        if wide:
            cells.append(f"{arm.exposures:,}")
        table.add_row(*cells)
    return table


def _belief(metric: pb.MetricStatus | None, times: float, digits: int) -> str:
    """Posterior mean and half of its 95 % interval."""
    if metric is None or not metric.n:
        return "-"
    half = (metric.posterior_high - metric.posterior_low) / 2
    return f"{metric.posterior_mean * times:.{digits}f} ±{half * times:.{digits}f}"


def _probability(value: float) -> str:
    if 0 < value < 0.001:
        return "<0.001"
    return ">0.999" if 0.999 < value < 1 else f"{value:.3f}"


def _guardrails(moment: Moment, width: int) -> Table:
    table = _table("GUARDRAIL", "VARIANT", "VERDICT", "EVIDENCE", ">", ">SEEN", ">AGAINST")
    cells = 20 if width >= WIDE else 10
    for verdict in moment.verdicts.values():
        word, style = _OUTCOMES.get(verdict.outcome, (str(verdict.outcome), ""))
        nothing = verdict.outcome == pb.OUTCOME_NO_DATA
        part = max(verdict.log_e, 0.0) / verdict.log_threshold if verdict.log_threshold > 0 else 0.0
        fill = "red" if part >= 1 else "yellow" if part >= 0.5 else "green"
        table.add_row(
            verdict.guardrail,
            verdict.arm,
            Text(word, style),
            Text(bar(min(part, 1.0), cells), f"{fill} on grey23"),
            "-" if nothing else f"{verdict.log_e:.1f} / {verdict.log_threshold:.1f}",
            "-" if nothing else _value(verdict.observed),
            "-" if nothing else _value(verdict.reference),
        )
    return table


def _value(value: float) -> str:
    return f"{value * 100:.1f} %" if abs(value) <= 1 else f"{value:.0f} ms"


def _events(events: Sequence[Event], width: int, room: int) -> list[RenderableType]:
    """The newest events, oldest first, in at most ``room`` lines; the others give way to rollbacks, holds, failures
    and what the world did. Failures are shown whole, the others on one line each."""
    shown: dict[int, Text] = {}
    newest = list(enumerate(events))[::-1]
    for grave in (True, False):
        for at, event in newest:
            if _grave(event) is not grave:
                continue
            text = _event(event)
            lines = 1 if text.no_wrap else -(-len(text) // width)
            if lines > room:
                break
            room -= lines
            shown[at] = text
    return [shown[at] for at in sorted(shown)]


def _grave(event: Event) -> bool:
    return event.kind in ("rollback", "world", "hold") or event.text.startswith("FAIL")


def _event(event: Event) -> Text:
    word, style = _KINDS[event.kind]
    failed = event.text.startswith("FAIL")
    text = Text(overflow="ellipsis", no_wrap=not failed)
    text.append(f"{event.at_s:5.1f} s ", "dim")
    text.append(f"{word:<9}", style)
    text.append(event.text, "bold red" if failed else "")
    return text


def _foot(moment: Moment, *, tall: bool) -> list[Text]:
    """What the signs mean; and, without an end, what to try."""
    lines = [Text("±: half of the 95 % interval. Evidence of harm: ln E / where it fails.", "dim")]
    if tall and moment.status is not None:
        lines.append(Text(_ledger(moment.status), "dim"))
    if moment.until_s is None:
        lines.append(Text(f"Try in another terminal: {moment.commands}. Ctrl-C ends.", "dim"))
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return lines


def _table(*heads: str) -> Table:
    """A table without lines; a head that begins with ``>`` is of numbers, flush right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold dim")
    for head in heads:
        right = head.startswith(">")
        table.add_column(head.lstrip(">"), justify="right" if right else "left", no_wrap=True)
    return table
