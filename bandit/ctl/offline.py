"""Commands that need no server: validate, schema, completion."""

from __future__ import annotations

from typing import Any

import click

from bandit.ctl.apply import read_spec
from bandit.ctl.exits import Exit
from bandit.ctl.invocation import PLACED, Invocation, command
from bandit.ctl.text import plain
from bandit.errors import InvalidArgument, NotFound

COMPLETE_VARIABLE = "_BANDITCTL_COMPLETE"


@command("validate")
@click.argument("files", nargs=-1, required=True, type=click.Path(allow_dash=True))
@click.pass_obj
def validate(invocation: Invocation, files: tuple[str, ...]) -> int:
    """Check spec files, without a server.

    Every mistake is printed with its file, line and column.
    """
    found = [(file, mistakes(file)) for file in files]
    if invocation.documents:
        invocation.answer(
            {
                "files": [
                    {"file": file, "valid": not lines, "errors": [_placed(file, line) for line in lines]}
                    for file, lines in found
                ]
            }
        )
    for file, lines in found:
        for line in lines:
            click.echo(plain(line), err=True)
        if not lines and not invocation.documents:
            click.echo(f"{plain(file)}: right")
    return int(Exit.INVALID if any(lines for _, lines in found) else Exit.OK)


def mistakes(file: str) -> list[str]:
    """Every mistake of a file as ``file:line:column: field: sentence``."""
    try:
        read_spec(file)
    except (InvalidArgument, NotFound) as error:
        return str(error).splitlines()
    return []


def _placed(file: str, line: str) -> dict[str, Any]:
    match = PLACED.fullmatch(line)
    if match is None:
        return {"line": 0, "column": 0, "field": "", "description": line}
    return {
        "line": int(match["line"]),
        "column": int(match["column"]),
        "field": match["field"] or "",
        "description": match["sentence"],
    }


@command("schema")
@click.pass_obj
def schema(invocation: Invocation) -> None:
    """Print the JSON Schema of spec files, for editors.

    Save it and write `# yaml-language-server: $schema=PATH` into the first line of a spec.
    """
    from bandit.spec.schema import json_schema

    invocation.answer(json_schema())


@command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_obj
def completion(invocation: Invocation, shell: str) -> None:
    """Print the completion script of a shell.

    Names of experiments and arms are completed from the server.

    \b
    bash:  eval "$(banditctl completion bash)"        in ~/.bashrc
    zsh:   eval "$(banditctl completion zsh)"         in ~/.zshrc
    fish:  banditctl completion fish > ~/.config/fish/completions/banditctl.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    root = click.get_current_context().find_root().command
    script = kind(root, {}, "banditctl", COMPLETE_VARIABLE).source()
    if invocation.documents:
        invocation.answer({"shell": shell, "script": script})
    else:
        click.echo(script)
