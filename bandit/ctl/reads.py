"""Commands that only look: get, list, status, audit."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from bandit.ctl.invocation import Invocation, command
from bandit.ctl.names import ExperimentName

if TYPE_CHECKING:
    from bandit.v1.experiment_pb2 import Experiment


@command("get")
@click.argument("name", type=ExperimentName())
@click.option(
    "-o",
    "--output",
    type=click.Choice(["yaml", "json"]),
    default="yaml",
    help="yaml: the spec as a file to apply.",
)
@click.pass_obj
def get(invocation: Invocation, name: str, output: str) -> None:
    """Print the spec of an experiment."""
    with invocation.connect() as client:
        experiment = client.get(name)
    if invocation.documents or output == "json":
        from bandit.ctl.document import document

        invocation.answer(document(experiment))
        return
    click.echo(spec_yaml(experiment), nl=False)


def spec_yaml(experiment: Experiment) -> str:
    """The spec as the text of a file, under a comment that says where the experiment stands."""
    from bandit.client.convert import spec_from_proto
    from bandit.client.words import enum_text
    from bandit.ctl.text import plain
    from bandit.spec.render import render_yaml
    from bandit.v1.experiment_pb2 import ExperimentState

    state = enum_text(ExperimentState.DESCRIPTOR, experiment.state)
    head = f"# {experiment.name}: {state}, epoch {experiment.epoch}, etag {experiment.etag}"
    return f"{plain(head)}\n{render_yaml(spec_from_proto(experiment.spec))}"


@command("list")
@click.pass_obj
def list_(invocation: Invocation) -> None:
    """List experiments."""
    with invocation.connect() as client:
        experiments = list(client.experiments())
    if invocation.documents:
        from bandit.ctl.document import document

        invocation.answer({"experiments": [document(each) for each in experiments]})
        return
    from bandit.ctl.render import experiments_view, screen, show

    show(screen(), experiments_view(experiments))


@command("status")
@click.argument("name", type=ExperimentName())
@click.pass_obj
def status(invocation: Invocation, name: str) -> None:
    """Print shares, metrics, guardrails and counts."""
    with invocation.connect() as client:
        found = client.status(name)
    if invocation.documents:
        from bandit.ctl.document import document

        invocation.answer(document(found))
        return
    from bandit.ctl.render import screen, show, status_view

    console = screen()
    show(console, status_view(found, time.time(), console.width))


@command("audit")
@click.argument("name", type=ExperimentName())
@click.option(
    "-n", "--limit", type=click.IntRange(1), default=50, show_default=True, help="Most records to print."
)
@click.pass_obj
def audit(invocation: Invocation, name: str, limit: int) -> None:
    """Print who changed what, when and why, newest first."""
    from itertools import islice

    with invocation.connect() as client:
        records = list(islice(client.audit(name, min(limit, 1000)), limit))
        if invocation.documents:
            from bandit.ctl.document import document

            invocation.answer({"records": [document(record) for record in records]})
            return
        arms = [arm.name for arm in client.get(name).spec.arms]
    from bandit.ctl.render import audit_view, screen, show

    show(screen(), audit_view(records, arms))
