"""An evaluation as a picture: shares over time beside the log's, values with intervals; it needs matplotlib."""

from __future__ import annotations

from typing import Any

import numpy as np

from bandit.ctl.pictures import COLOURS, DPI, GRID, WIDTH_IN
from bandit.errors import InvalidArgument
from bandit.evaluate.outcome import Evaluation

HEIGHT_IN = 4.0


def draw_evaluation(path: str, found: Evaluation) -> None:
    """Write the picture. Raises InvalidArgument when it cannot be written."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 9.0, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained", dpi=DPI)
        title = f"{found.experiment} by {found.mode}, {found.counts.decisions:,} decisions"
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
        left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": [1.5, 1.0]})
        _shares(left, found)
        _values(right, found)
        try:
            figure.savefig(path)
        except OSError as error:
            raise InvalidArgument.at("--plot", f"{path} cannot be written: {error.strerror}") from None


def _shares(axis: Any, found: Evaluation) -> None:
    hours = (found.at_ms - found.at_ms[0]) / 3.6e6
    for index, arm in enumerate(found.arms):
        colour = COLOURS[index % len(COLOURS)]
        axis.step(hours, 100.0 * found.shares[:, index], where="post", color=colour, label=arm.arm)
        axis.axhline(100.0 * arm.logged, color=colour, linewidth=0.8, linestyle=":")
    for fall in found.falls:
        axis.axvline((fall.time_ms - int(found.at_ms[0])) / 3.6e6, color=COLOURS[6], linewidth=0.8)
    axis.set(xlabel="hours", ylabel="share, %", ylim=(0, 100), title="shares of the spec; dotted: of the log")
    axis.grid(color=GRID)
    if len(found.arms) <= len(COLOURS):
        axis.legend(frameon=False)


def _values(axis: Any, found: Evaluation) -> None:
    rows = [("log", found.logged), *((each.estimator, each.value) for each in found.estimates)]
    places = np.arange(len(rows))
    for place, (_, own) in zip(places, rows, strict=True):
        axis.plot([own.low, own.high], [place, place], color=COLOURS[1], linewidth=2)
        axis.plot([own.value], [place], "o", color=COLOURS[1])
    axis.set_yticks(places, [name for name, _ in rows])
    axis.invert_yaxis()
    axis.set(xlabel="objective", title="values with 95 % intervals")
    axis.grid(axis="x", color=GRID)
