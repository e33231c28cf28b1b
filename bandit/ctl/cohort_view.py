"""Effects by cohort as text for people; nothing where no cohorts are declared."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from bandit.ctl.tables import table as _table
from bandit.ctl.text import number, plain, signed
from bandit.spec.model import APART
from bandit.v1 import report_pb2


def cohort_view(report: report_pb2.Report, *, narrow: bool) -> list[RenderableType]:
    """A table with a row per metric, arm and cohort; empty without any."""
    if not any(metric.cohorts for metric in report.metrics):
        return []
    table = _table(
        "METRIC",
        "ARM",
        "COHORT",
        ">EFFECT",
        ">ITS SD",
        *([] if narrow else [">OWN ESTIMATE"]),
        ">REWARDS",
        "|",
    )
    for metric in report.metrics:
        title = plain(metric.metric)
        for each in metric.cohorts:
            apart = Text("APART", "bold red") if each.apart > APART else Text("")
            own = [] if narrow else [signed(each.raw)]
            counts = f"{each.n:,} / {each.n_control:,}"
            row = [
                title,
                plain(each.arm),
                plain(each.cohort),
                signed(each.effect),
                number(each.sd),
                *own,
                counts,
            ]
            table.add_row(*row, apart)
            title = ""
    return [
        Text(),
        Text("COHORTS, each drawn to all of them as far as they agree.", "bold"),
        table,
        Text(
            f"Apart: with a chance above {APART:g} the effect has another sign than that of all cohorts.",
            "dim",
        ),
    ]
