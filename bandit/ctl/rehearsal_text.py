"""A rehearsed world as text for people; it measures nothing."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bandit.ctl.rehearsing import Rehearsed
from bandit.ctl.text import count, plain, span
from bandit.simulate.tally import Part, Spread
from bandit.spec.model import PPM, ExperimentSpec
from bandit.spec.quantity import format_duration


def rehearsal_view(spec: ExperimentSpec, found: Rehearsed) -> RenderableType:
    """One world: what was assumed, regret and harm, arms, guardrails, advice."""
    tally, world = found.tally, found.plan.world
    head = Text(f"world {plain(tally.world)}", "bold")
    head.append(
        f"  {count(tally.runs, 'run')} of {format_duration(world.horizon)} at {world.traffic_per_hour:,.6g} requests "
        f"an hour, a look each {span(found.plan.period_s)}",
        "dim",
    )
    parts: list[RenderableType] = [head, *_lines(spec, found), Text(), _arms(found)]
    if tally.guards:
        parts += [Text(), _guards(found)]
    parts += [Text(f"note: {plain(sentence)}", "yellow") for sentence in found.advice]
    return Group(*parts, Text())


def _lines(spec: ExperimentSpec, found: Rehearsed) -> list[Text]:
    tally = found.tally
    saved = ""
    if tally.equal_regret > 0.0:
        part = 100.0 * (1.0 - tally.regret / tally.equal_regret)
        saved = f", {abs(part):.0f} % {'less' if part >= 0 else 'more'} than equal shares"
    against = "the best arm of each segment" if found.plan.world.segments else plain(tally.best)
    lines = [
        Text(
            f"regret against {against}: {tally.regret:.4g} +- {tally.regret_se:.2g} a release, "
            f"95 % of runs below {tally.regret_p95:.4g}{saved}"
        )
    ]
    if found.blind is not None:
        blind = found.blind
        lines.append(
            Text(
                f"thompson without features, on the same requests: {blind.regret:.4g} +- {blind.regret_se:.2g}"
            )
        )
    top = f"{plain(tally.best)} is on top at the end in {_part(tally.on_top)}"
    if tally.top_requests and tally.top_seconds:
        top += (
            f", for good after {tally.top_requests.median:,.0f} requests ({span(tally.top_seconds.median)}), "
            f"9 of 10 by {tally.top_requests.p90:,.0f}"
        )
    cap = spec.bounds_ppm(found.plan.best)[1] / PPM
    lines.append(Text(top))
    if cap <= 0.5 and tally.best != spec.arms[spec.control_index].name:
        lines.append(Text(f"its cap of {100 * cap:.3g} % keeps {plain(tally.best)} from the top", "yellow"))
    false = Text(f"false rollbacks: {_part(tally.false_rollbacks)}")
    if tally.false_rollbacks.low > found.plan.spec.alpha:
        false.append(f", more than alpha {found.plan.spec.alpha:g}", "bold red")
    lines.append(false)
    if any(arm.harmful for arm in tally.arms):
        lines.append(
            Text(
                f"harm: {tally.harm_requests:,.0f} requests served by a harmful arm on average, 95 % of runs below "
                f"{tally.harm_p95:,.0f}; never stopped in {_part(tally.missed)}"
            )
        )
    return lines


def _arms(found: Rehearsed) -> Table:
    table = _table("ARM", ">TRUE UTILITY", ">REQUESTS", ">LAST SHARE", ">10 % TO 90 %", ">ROLLED BACK", "")
    for arm in found.tally.arms:
        table.add_row(
            plain(arm.arm),
            f"{arm.utility:.4g}",
            f"{arm.requests:,.0f}",
            f"{100 * arm.share:.1f} %",
            f"{100 * arm.share_low:.1f} to {100 * arm.share_high:.1f} %",
            _part(arm.rolled_back),
            Text("harmful", "red")
            if arm.harmful
            else Text("best", "green")
            if arm.arm == found.tally.best
            else "",
        )
    return table


def _guards(found: Rehearsed) -> Table:
    table = _table("GUARDRAIL", "ARM", "PROMISE", ">ACTED IN", ">AFTER REQUESTS", ">9 OF 10 BY", ">AFTER")
    for guard in found.tally.guards:
        table.add_row(
            plain(guard.guardrail),
            plain(guard.arm),
            Text("broken", "red") if guard.harmful else Text("kept", "dim"),
            Text(_part(guard.acted), "green" if guard.harmful else "red" if guard.acted.count else ""),
            _number(guard.requests, "median"),
            _number(guard.requests, "p90"),
            span(guard.seconds.median) if guard.seconds else "",
        )
    return table


def _number(spread: Spread | None, name: str) -> str:
    return f"{getattr(spread, name):,.0f}" if spread else ""


def _part(part: Part) -> str:
    """``2.1 % (1.3 to 3.2)``: a share of runs with its interval."""
    low, high = (
        f"{100 * end:.3g}" if end == 1.0 or end < 0.1 else f"{100 * end:.0f}" for end in (part.low, part.high)
    )
    return f"{100 * part.share:.3g} % ({low} to {high})"


def _table(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for head in heads:
        table.add_column(head.lstrip(">"), justify="right" if head.startswith(">") else "left", no_wrap=True)
    return table
