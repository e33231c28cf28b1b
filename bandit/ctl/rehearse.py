"""The command rehearse: a spec tried in worlds of simulated users, thousands of times, before any user sees it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from bandit.ctl.apply import read_spec, read_text
from bandit.ctl.invocation import Invocation, command
from bandit.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable

    from bandit.ctl.rehearsing import Rehearsed
    from bandit.simulate.world import WorldFile
    from bandit.spec.model import ExperimentSpec

file_type = click.Path(exists=True, dir_okay=False, allow_dash=True)


@command("rehearse")
@click.option("-f", "--file", "path", required=True, type=file_type, help="The spec; - reads it from stdin.")
@click.option("--world", "world_path", type=file_type, help="The world; left out: worlds made from the spec.")
@click.option(
    "--runs", type=click.IntRange(1, 100_000), default=200, show_default=True, help="Runs per world."
)
@click.option("--looks", type=click.IntRange(2, 5000), default=100, show_default=True, help="Looks in a run.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Same seed, same numbers.")
@click.option(
    "--traffic",
    type=click.FloatRange(0, 1e9, min_open=True),
    metavar="PER_HOUR",
    help="Without --world: decisions.",
)
@click.option("--horizon", metavar="DURATION", help="Without --world: how long, for example 7d.")
@click.option("--processes", type=click.IntRange(1, 64), help="Processes at work.  [default: one per CPU]")
@click.option("--plot", type=click.Path(dir_okay=False, writable=True), help="Write a picture, .png or .svg.")
@click.pass_obj
def rehearse(
    invocation: Invocation,
    path: str,
    world_path: str | None,
    runs: int,
    looks: int,
    seed: int,
    traffic: float | None,
    horizon: str | None,
    processes: int | None,
    plot: str | None,
) -> int:
    """Try a spec on simulated users, without a server.

    Regret, exposure to harm, false rollbacks and detection delays.

    The spec goes through the same judges and allocators that the server uses. Without --world, a few usual worlds
    are made from the spec: equal arms, each challenger better by a tenth, one harmful, a level that rises; and one
    that is better for half of the requests only, where the spec has features or cohorts apart.
    """
    if world_path is not None and (traffic is not None or horizon is not None):
        raise click.UsageError(
            "--traffic and --horizon are in the world's file; leave them out, or leave --world out"
        )
    if path == "-" and world_path == "-":
        raise click.UsageError("the spec and the world cannot both come from stdin; name a file for one")
    spec = read_spec(path)
    worlds = _worlds(spec, world_path, traffic, horizon)
    if plot:
        from bandit.ctl.pictures import check_plot

        check_plot(plot)
    from bandit.ctl.rehearsing import rehearsal

    with _progress(invocation, len(worlds) * runs) as advance:
        found = rehearsal(spec, worlds, runs, looks, seed, processes or os.cpu_count() or 1, advance)
    if plot:
        from bandit.ctl.pictures import draw_plot

        draw_plot(plot, spec, found)
    _answer(invocation, spec, found, runs, looks, seed, plot)
    return 0


def _worlds(
    spec: ExperimentSpec, path: str | None, traffic: float | None, horizon: str | None
) -> tuple[WorldFile, ...]:
    from bandit.simulate.standard import HORIZON_S, TRAFFIC_PER_HOUR, standard_worlds
    from bandit.simulate.world import parse_world
    from bandit.spec.quantity import parse_duration

    if path is not None:
        return (parse_world(read_text(path), "<stdin>" if path == "-" else path, spec),)
    try:
        span = HORIZON_S if horizon is None else parse_duration(horizon)
    except ValueError as error:
        raise InvalidArgument.at("--horizon", str(error)) from None
    if not 1 <= span <= 366 * 86400:
        raise InvalidArgument.at("--horizon", f"{horizon} is not within 1s to 366d; write one that is")
    return standard_worlds(spec, TRAFFIC_PER_HOUR if traffic is None else traffic, span)


class _progress:  # noqa: N801 - used as a function
    """A bar on a terminal's stderr; nothing elsewhere."""

    def __init__(self, invocation: Invocation, total: int) -> None:
        self._shown = sys.stderr.isatty() and not invocation.documents
        self._total = total
        self._bar: object = None

    def __enter__(self) -> Callable[[str, int], None]:
        if not self._shown:
            return lambda world, runs: None
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        task = bar.add_task("compiling", total=self._total)
        bar.start()
        self._bar = bar
        return lambda world, runs: bar.update(task, description=world, advance=runs)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()  # type: ignore[attr-defined]


def _answer(
    invocation: Invocation,
    spec: ExperimentSpec,
    found: list[Rehearsed],
    runs: int,
    looks: int,
    seed: int,
    plot: str | None,
) -> None:
    if invocation.documents:
        from bandit.ctl.rehearsing import document

        worlds = [document(each) for each in found]
        invocation.answer(
            {"experiment": spec.experiment, "runs": runs, "looks": looks, "seed": seed, "worlds": worlds}
        )
        return
    from bandit.ctl.rehearsal_text import rehearsal_view
    from bandit.ctl.render import screen, show

    console = screen()
    for each in found:
        show(console, rehearsal_view(spec, each))
    if plot:
        click.echo(f"the picture is in {plot}")
