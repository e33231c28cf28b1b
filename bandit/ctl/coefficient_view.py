"""Coefficients of linear models as text for people; nothing where no features are declared."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from bandit.ctl.tables import table as table_of
from bandit.ctl.text import number, plain, signed
from bandit.v1 import experiment_pb2, report_pb2


def coefficient_view(
    arms: Sequence[experiment_pb2.ArmStatus] | Sequence[report_pb2.ArmReport],
) -> list[RenderableType]:
    """A row per column and a pair of numbers per arm; empty without any."""
    names = [each.column for each in arms[0].coefficients] if arms else []
    if not names:
        return []
    table = table_of("COLUMN", *(f">{plain(arm.arm)}" for arm in arms))
    for index, name in enumerate(names):
        cells = []
        for arm in arms:
            each = arm.coefficients[index]
            shown = number(each.mean) if index == 0 else signed(each.mean)
            cells.append(f"{shown} +- {number(each.sd)}")
        table.add_row(plain(name), *cells)
    return [
        Text(),
        Text(
            "COEFFICIENTS of each arm, in units of the objective, better up, with their posterior sd.", "bold"
        ),
        table,
        Text(
            "The intercept is a request with mean features; a value adds what it has over the mean of its feature, a "
            "number what it adds from the middle to the high end of its range.",
            "dim",
        ),
    ]
