"""A rehearsal as a picture: shares over time and what each guardrail did; it needs matplotlib, an extra."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bandit.errors import InvalidArgument, NotAllowed

if TYPE_CHECKING:
    from bandit.ctl.rehearsing import Rehearsed
    from bandit.simulate.tally import GuardTally
    from bandit.spec.model import ExperimentSpec

KINDS = (".png", ".svg", ".pdf")
WIDTH_IN = 12.0
WORLD_IN = 3.1
DPI = 144
# Okabe and Ito 2008: told apart by people with any kind of colour vision.
COLOURS = ("#555555", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
GOOD, BAD, MISSED, GRID = "#009E73", "#D55E00", "#D9D9D9", "#E6E6E6"
MOST_BARS = 10


def check_plot(path: str) -> None:
    """Raises NotAllowed without matplotlib and InvalidArgument for a picture of an unknown kind, before the work."""
    if Path(path).suffix.lower() not in KINDS:
        raise InvalidArgument.at(
            "--plot", f"{path} is no {', '.join(KINDS)} file; give it one of these endings"
        )
    if importlib.util.find_spec("matplotlib") is None:
        raise NotAllowed(
            "--plot needs matplotlib, which is not installed; run `pip install 'banditd[plot]'`, or leave --plot out",
            reason="PLOT_NOT_INSTALLED",
        )


def draw_plot(path: str, spec: ExperimentSpec, found: list[Rehearsed]) -> None:
    """Write the picture: a row per world, shares on the left, guardrails on the right.

    Raises InvalidArgument when it cannot be written."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "font.size": 9.0,
        "axes.titlesize": 10.0,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#999999",
        "xtick.color": "#444444",
        "ytick.color": "#444444",
        "svg.fonttype": "none",
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(WIDTH_IN, 0.7 + WORLD_IN * len(found)), layout="constrained", dpi=DPI)
        figure.suptitle(f"Rehearsal of {spec.experiment}", x=0.01, ha="left", fontsize=13, fontweight="bold")
        axes = figure.subplots(len(found), 2, squeeze=False, gridspec_kw={"width_ratios": [1.5, 1.0]})
        for row, each in zip(axes, found, strict=True):
            _shares(row[0], spec, each)
            _guards(row[1], each)
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=min(len(labels), 6), frameon=False)
        try:
            figure.savefig(path)
        except OSError as error:
            raise InvalidArgument.at("--plot", f"{path} cannot be written: {error.strerror}") from None


def _shares(axis: Any, spec: ExperimentSpec, found: Rehearsed) -> None:
    """Median share of each arm with the band of 8 of 10 runs."""
    tally, unit, size = found.tally, *_clock(found.plan.world.horizon)
    time = tally.seconds / size
    for k, arm in enumerate(spec.arms):
        colour = COLOURS[k % len(COLOURS)]
        style = "-" if k < len(COLOURS) else "--"
        low, middle, high = 100.0 * tally.shares[:, :, k]
        axis.fill_between(time, low, high, color=colour, alpha=0.15, linewidth=0)
        axis.plot(time, middle, color=colour, linewidth=1.8, linestyle=style, label=arm.name)
    axis.set_ylim(0, 100)
    axis.set_xlim(0, found.plan.world.horizon / size)
    axis.set_ylabel("share of traffic, %")
    axis.set_xlabel(unit)
    axis.grid(axis="y", color=GRID)
    axis.set_axisbelow(True)
    axis.set_title(f"{tally.world}: {tally.best} is best; median of {tally.runs} runs and 8 of 10 of them")


def _guards(axis: Any, found: Rehearsed) -> None:
    """Share of runs in which each guardrail acted: right or wrong by colour, with its delay."""
    guards = _shown(found.tally.guards)
    axis.set_xlim(0, 100)
    axis.set_xlabel("runs in which it acted, %")
    axis.set_title("guardrails: green found harm, red acted on a healthy arm")
    if not guards:
        axis.text(50, 0, "the spec has none", ha="center", va="center", color="#777777")
        axis.set_yticks([])
        return
    places = range(len(guards))
    axis.barh(
        places, [100.0] * len(guards), color=[MISSED if g.harmful else "#F5F5F5" for g in guards], height=0.62
    )
    axis.barh(
        places,
        [100.0 * g.acted.share for g in guards],
        color=[GOOD if g.harmful else BAD for g in guards],
        height=0.62,
    )
    for place, guard in zip(places, guards, strict=True):
        axis.text(98.5, place, _told(guard), ha="right", va="center", fontsize=7.5, color="#333333")
    axis.set_yticks(list(places), [f"{g.guardrail}\n{g.arm}" for g in guards], fontsize=7.5)
    axis.invert_yaxis()
    axis.tick_params(axis="y", length=0)


def _shown(guards: tuple[GuardTally, ...]) -> list[GuardTally]:
    """Those that matter most where there are too many: broken promises first, then what acted most."""
    first = sorted(guards, key=lambda g: (not g.harmful, -g.acted.share))[:MOST_BARS]
    return [guard for guard in guards if guard in first]


def _told(guard: GuardTally) -> str:
    if guard.requests is None:
        return "harm not found" if guard.harmful else "quiet"
    return f"{100 * guard.acted.share:.3g} %, median after {guard.requests.median:,.0f} requests"


def _clock(horizon_s: float) -> tuple[str, float]:
    """Unit of the time axis and its seconds."""
    for size, unit in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if horizon_s >= 2 * size:
            return unit, size
    return "seconds", 1.0
