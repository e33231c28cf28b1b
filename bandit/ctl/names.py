"""Arguments that name an experiment or an arm; completing them from the server never fails and never takes long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from bandit.ctl.invocation import DEFAULT_SERVER, TextType
from bandit.errors import BanditError

if TYPE_CHECKING:
    from bandit.client import Client

_PATIENCE_S = 1.0
_MOST = 1000


class ExperimentName(TextType):
    """The name of an experiment; ``experiments/NAME`` is taken too."""

    name = "experiment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(value).removeprefix("experiments/")

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        try:
            with _client(ctx) as client:
                found = []
                for experiment in client.experiments(_MOST):
                    name = experiment.spec.experiment
                    if name.startswith(incomplete):
                        found.append(CompletionItem(name, help=experiment.spec.hypothesis[:60] or None))
                return found
        except BanditError:
            return []


class ArmName(TextType):
    """The name of an arm of the experiment that the argument or option ``of`` names."""

    name = "arm"

    def __init__(self, of: str = "name") -> None:
        self._of = of

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        experiment = ctx.params.get(self._of)
        if not experiment:
            return []
        try:
            with _client(ctx) as client:
                arms = client.get(experiment).spec.arms
        except BanditError:
            return []
        return [
            CompletionItem(arm.name, help="control" if arm.control else None)
            for arm in arms
            if arm.name.startswith(incomplete)
        ]


def _client(ctx: click.Context) -> Client:
    from bandit.client import Client

    given = ctx.params.get("server") or ctx.find_root().params.get("server") or DEFAULT_SERVER
    return Client(given, timeout_s=_PATIENCE_S)
