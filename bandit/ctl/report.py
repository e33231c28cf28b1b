"""The command that prints what an experiment's data show."""

from __future__ import annotations

import time

import click

from bandit.ctl.invocation import Invocation, command
from bandit.ctl.names import ExperimentName


@command("report")
@click.argument("name", type=ExperimentName())
@click.pass_obj
def report(invocation: Invocation, name: str) -> None:
    """Print effects, evidence, and the winner if any."""
    with invocation.connect() as client:
        found = client.report(name)
    if invocation.documents:
        from bandit.ctl.document import document

        invocation.answer(document(found))
        return
    from bandit.ctl.render import screen, show
    from bandit.ctl.report_view import report_view

    console = screen()
    show(console, report_view(found, time.time(), console.width))
