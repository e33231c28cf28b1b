"""banditctl, the operators' command: a client of banditd and nothing more; the server's rules stay there."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import click

from bandit.ctl.exits import MEANING, Exit
from bandit.ctl.guard import stop_on_clash
from bandit.ctl.invocation import say, say_error, shared_options
from bandit.errors import BanditError

# In the order of a release: where each command is.
COMMANDS = {
    "validate": "offline:validate",
    "rehearse": "rehearse:rehearse",
    "evaluate": "evaluate:evaluate",
    "apply": "apply:apply",
    "start": "writes:start",
    "status": "reads:status",
    "watch": "watch:watch",
    "report": "report:report",
    "pause": "writes:pause",
    "resume": "writes:resume",
    "rollback": "writes:rollback",
    "stop-arm": "local:stop_arm",
    "clear-rollback": "writes:clear_rollback",
    "promote": "writes:promote",
    "delete": "writes:delete",
    "server": "local:server",
    "doctor": "local:doctor",
    "accept-store": "local:accept_store",
    "list": "reads:list_",
    "get": "reads:get",
    "audit": "reads:audit",
    "decide": "traffic:decide",
    "reward": "traffic:reward",
    "ingest": "ingest:ingest",
    "schema": "offline:schema",
    "completion": "offline:completion",
}
_CODES = "\n".join(f"{int(code):>3}  {meaning}" for code, meaning in MEANING.items())
_EPILOG = f"""\b
Exit codes:
{_CODES}

The options above may also be written behind a command. Errors go to stderr, one sentence each; with --json
stdout is one JSON document all the same."""
TRACE_VARIABLE = "BANDITCTL_TRACEBACK"
_BROKEN_PIPE = 141


class Group(click.Group):
    """The commands in the order of COMMANDS, each loaded when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, name = place.partition(":")
        found: click.Command = getattr(importlib.import_module(f"bandit.ctl.{module}"), name)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = [name for name in COMMANDS if name.startswith(args[0])]
            near = near or get_close_matches(args[0], COMMANDS, 1)
            hint = f"did you mean {' or '.join(near)}?" if near else f"commands are {', '.join(COMMANDS)}"
            ctx.fail(f"no command {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # Whoever read has gone; what is still in the buffer goes nowhere, in silence.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return _BROKEN_PIPE
        except KeyboardInterrupt:
            if sys.stderr.isatty():
                click.echo(err=True)
            say("stopped")
            return int(Exit.STOPPED)
        return result


@click.group(
    "banditctl",
    cls=Group,
    params=shared_options(repeated=False),
    epilog=_EPILOG,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="banditd", prog_name="banditctl")
@click.pass_context
def cli(ctx: click.Context, /, **_: object) -> int:
    """Operate banditd: experiments that release ML and LLM variants by evidence."""
    if os.environ.get("NO_COLOR"):
        ctx.color = False
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        return int(Exit.USAGE)
    return 0


def run(arguments: Sequence[str] | None = None) -> int:
    """One run; returns the exit code and raises nothing but SystemExit of shell completion."""
    try:
        result = cli.main(args=arguments, prog_name="banditctl", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        return _usage(error, sys.argv[1:] if arguments is None else arguments)
    except (click.Abort, KeyboardInterrupt):
        say("stopped; nothing was changed")
        return int(Exit.STOPPED)
    except BanditError as error:
        from bandit.ctl.exits import code_of

        say_error(error)
        return int(code_of(error))
    except Exception as error:
        # The last line of defence: a sentence, not a traceback.
        if os.environ.get(TRACE_VARIABLE):
            raise
        say(
            f"a fault of banditctl: {type(error).__name__}: {error}; run again with {TRACE_VARIABLE}=1 and report "
            "what it prints"
        )
        return int(Exit.UNEXPECTED)


def _usage(error: click.ClickException, arguments: Sequence[str]) -> int:
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    told = error.format_message().rstrip(".")
    between = " " if told.endswith("?") else "; "
    told = f"{told}{between}see `{ctx.command_path} --help`" if ctx else told
    if "--json" in arguments:  # nothing was parsed, but a script waits for its document
        wrong = {"exit_code": error.exit_code, "exit_meaning": Exit.USAGE.name, "reason": "", "message": told}
        wrong |= {"metadata": {}, "violations": []}
        click.echo(json.dumps({"error": wrong}, indent=2))
    say(told)
    return error.exit_code


def _stop(number: int, frame: object) -> None:
    """The first Ctrl-C unwinds; one more, while it does, ends at once."""
    signal.signal(signal.SIGINT, _stop_now)
    raise KeyboardInterrupt


def _stop_now(number: int, frame: object) -> None:
    if os.isatty(1):
        # A live table hides the cursor.
        os.write(1, b"\x1b[?25h\n")
    os._exit(int(Exit.STOPPED))


def main() -> None:
    """The entry point."""
    signal.signal(signal.SIGINT, _stop)
    stop_on_clash()
    # gRPC's own log lines are no sentences; whoever wants them sets the variable.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets its escape, never a traceback.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    code = run()
    # Python gives Ctrl-C back its deadly meaning while it ends, which would change the exit code.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)
