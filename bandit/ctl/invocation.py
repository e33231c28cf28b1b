"""What one run of banditctl was told (server, timeout, who asks, for whom to print), and commands that know it."""

from __future__ import annotations

import getpass
import os
import re
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from bandit.ctl.exits import Exit, code_of
from bandit.ctl.text import plain
from bandit.errors import BanditError, InvalidArgument

if TYPE_CHECKING:
    from bandit.client import Client

DEFAULT_SERVER = "127.0.0.1:50061"
SERVER_VARIABLE = "BANDITCTL_SERVER"
DEFAULT_TIMEOUT_S = 10.0
_MAX_ACTOR_BYTES = 128
# A mistake in a file, as the parser says it.
PLACED = re.compile(r"(?P<file>.*?):(?P<line>\d+):(?P<column>\d+): (?:(?P<field>[^ ]+): )?(?P<sentence>.*)")
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):([0-9]{1,5})")


@dataclass(slots=True)
class Invocation:
    """One run. ``documents``: print JSON for scripts instead of text for people; ``lines``: many, one per line."""

    server: str = DEFAULT_SERVER
    timeout_s: float = DEFAULT_TIMEOUT_S
    actor: str = ""
    documents: bool = False
    lines: bool = field(default=False, init=False)
    answered: bool = field(default=False, init=False)

    def connect(self, durability: str | None = None) -> Client:
        """A client of the server; a context manager. ``durability``: how safe its changes are to be."""
        from bandit.client import Client

        return Client(self.server, timeout_s=self.timeout_s, actor=self.actor, durability=durability or "")

    def answer(self, values: Mapping[str, Any]) -> None:
        """Prints the JSON document of this run, or one of its ``lines``."""
        from bandit.ctl.document import dumps

        self.answered = True
        click.echo(dumps(values, indent=None if self.lines else 2))

    def refuse(self, error: BanditError) -> int:
        """Says an error: a sentence to stderr, and with ``documents`` a JSON document. Returns the exit code."""
        code = code_of(error)
        say_error(error)
        if self.documents and (self.lines or not self.answered):
            violations = error.violations if isinstance(error, InvalidArgument) else ()
            self.answer(
                {
                    "error": {
                        "exit_code": int(code),
                        "exit_meaning": code.name,
                        "reason": error.reason,
                        "message": str(error),
                        "metadata": error.metadata,
                        "violations": [violation._asdict() for violation in violations],
                    }
                }
            )
        return int(code)


def say(sentence: str) -> None:
    """One sentence to stderr."""
    click.echo(f"banditctl: {plain(sentence)}", err=True)


def say_error(error: BanditError) -> None:
    """An error for people: its sentence, or each of several violations on a line of its own."""
    if isinstance(error, InvalidArgument) and len(error.violations) > 1:
        # The parser's own lines begin with file, line and column.
        lines = str(error).splitlines()
        if not all(map(PLACED.fullmatch, lines)):
            lines = [": ".join(filter(None, violation)) for violation in error.violations]
        say(f"{len(lines)} fields are wrong:")
        for line in lines:
            click.echo(f"  {plain(line)}", err=True)
        return
    wait = error.metadata.get("retry_delay_s")
    hint = f"; try again in {wait} s" if wait and code_of(error) is Exit.UNAVAILABLE else ""
    say(f"{error}{hint}")


def on_terminal() -> bool:
    """Whether a person can be asked: stdin is a terminal."""
    return sys.stdin.isatty()


def confirm(question: str, *, yes: bool, what: str) -> bool:
    """Whether to go on; asks on stderr. Raises UsageError where nobody can answer and ``yes`` was not said."""
    if yes:
        return True
    if not on_terminal():
        raise click.UsageError(f"{what} without a terminal to ask on; say --yes to go on unasked")
    return click.confirm(question, err=True)


def not_confirmed() -> int:
    """Says that nothing was changed. Returns the exit code."""
    say("nothing was changed")
    return int(Exit.STOPPED)


def default_actor() -> str:
    """``user@host``, at most 128 bytes."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid-{os.getuid()}"
    return f"{user}@{socket.gethostname()}".encode()[:_MAX_ACTOR_BYTES].decode(errors="ignore")


if TYPE_CHECKING:
    TextType = click.ParamType[str]
else:
    # Older releases of click have no type arguments.
    TextType = click.ParamType


class Address(TextType):
    """``host:port``, ``[v6]:port`` or ``unix:/path``."""

    name = "host:port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        match = _ADDRESS.fullmatch(text)
        if not text.startswith("unix:/") and not (match and 0 < int(match[2]) < 65536):
            self.fail(f"{text!r} is no address; write host:port, such as {DEFAULT_SERVER}", param, ctx)
        return text


class Actor(TextType):
    """A name for the audit, at most 128 bytes."""

    name = "who"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if not text.isprintable() or not 0 < len(text.encode()) <= _MAX_ACTOR_BYTES:
            self.fail(f"{text!r} is no name; write 1 to {_MAX_ACTOR_BYTES} printable bytes", param, ctx)
        return text


def shared_options(*, repeated: bool) -> list[click.Option]:
    """The options of every command; ``repeated``: hidden copies behind the command's name, unset by default."""
    return [
        click.Option(
            ["--server", "server"],
            type=Address(),
            default=None if repeated else DEFAULT_SERVER,
            envvar=None if repeated else SERVER_VARIABLE,
            show_default=True,
            show_envvar=True,
            hidden=repeated,
            help="banditd to speak to.",
        ),
        click.Option(
            ["--json", "documents"],
            is_flag=True,
            default=None if repeated else False,
            hidden=repeated,
            help="One JSON document instead of text (watch: one per line).",
        ),
        click.Option(
            ["--timeout", "timeout_s"],
            type=click.FloatRange(0, 3600, min_open=True),
            metavar="SECONDS",
            default=None if repeated else DEFAULT_TIMEOUT_S,
            show_default=True,
            hidden=repeated,
            help="Longest wait for an answer.",
        ),
        click.Option(
            ["--actor", "actor"],
            type=Actor(),
            default=None,
            hidden=repeated,
            help="Who asks, for the audit.  [default: user@host]",
        ),
    ]


SHARED = ("server", "documents", "timeout_s", "actor")


class Command(click.Command):
    """A command that takes the shared options behind its name too, and says errors as sentences."""

    def __init__(self, name: str | None, **settings: Any) -> None:
        settings["params"] = [*(settings.get("params") or []), *shared_options(repeated=True)]
        super().__init__(name, **settings)

    def invoke(self, ctx: click.Context) -> Any:
        given = dict(ctx.find_root().params)
        own = {key: ctx.params.pop(key) for key in SHARED}
        given.update({key: value for key, value in own.items() if value is not None})
        invocation = Invocation(**{**given, "actor": given["actor"] or default_actor()})
        ctx.obj = invocation
        try:
            return super().invoke(ctx)
        except BanditError as error:
            return invocation.refuse(error)


def command(name: str, **settings: Any) -> Callable[[Callable[..., Any]], Command]:
    """Decorator: a function as a command of banditctl."""
    return click.command(name, cls=Command, **settings)
