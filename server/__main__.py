"""``banditd``: the command line, and the entry point of its child processes; whatever it is told to do is elsewhere.

Everything heavy is imported when it is needed, so that `--help` and mistakes are answered at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from bandit.distribution import clash
from bandit.errors import BanditError, InvalidArgument, NotAllowed
from server.config import SETTINGS, Config, Loaded, load
from server.config.layers import CONFIG_VARIABLE, nearest
from server.config.settings import default_of, flag_of, has_flag, meaning_of

if TYPE_CHECKING:
    from server.supervise.lifeline import Orders

FAILED, USAGE = 1, 2
DOCTOR = "doctor"
_EPILOG = f"""\
Each setting may also be written into the file of --config (TOML, with _ for -), or into the environment
(BANDITD_ and its name, as BANDITD_HTTP_LISTEN; {CONFIG_VARIABLE} for --config). A flag wins over the environment,
which wins over the file. A store's URL with a password belongs into one of those two.

`banditd doctor` looks at this machine and the store with the same settings, shows a table and ends.

exit codes: 0 ended when asked to; 1 could not start or had to give up; 2 wrong usage or settings; of doctor: 0 all is
well, 3 something is not as wanted, 1 something forbids learning;
130 ended at once by a second Ctrl-C; with --demo that of the demo"""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, with the nearest flag."""

    def error(self, message: str) -> NoReturn:
        _say(f"{message}; see `banditd --help`")
        raise SystemExit(USAGE)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The entry point; ends the process."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets its escape, never a traceback.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if sentence := clash():
        _say(sentence)
        raise SystemExit(FAILED)
    if arguments[:1] == ["--child"]:
        _child(arguments[1:])
    raise SystemExit(run(arguments))


def run(arguments: Sequence[str], command: Callable[[str], Sequence[str]] | None = None) -> int:
    """One run of the supervisor; returns the exit code. ``command``: see ``server.supervise.service.run``."""
    options = _parse(arguments)
    if options.version:
        from server.telemetry.build import version

        sys.stdout.write(f"banditd {version()}\n")
        return 0
    given = {name: value for name, value in vars(options).items() if name in SETTINGS}
    try:
        loaded = load(given, os.environ, file=options.config)
        _check_sources(loaded.config)
        if options.check:
            _show(loaded)
            return 0
        if options.doctor:
            from server import doctor

            return doctor.run(loaded.config, as_json=options.json)
        from server.checks import machine
        from server.supervise import service

        demo = service.Demo(_demo_arguments(options)) if options.demo else None
        return service.run(loaded, demo, command, machine)
    except InvalidArgument as error:
        for fault in error.violations:
            _say(f"{fault.field}: {fault.description}")
        if not error.violations:
            _say(str(error))
        return USAGE
    except BanditError as error:
        _say(str(error))
        return FAILED


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="banditd",
        usage="banditd [doctor [--json]] [--config FILE] [SETTING ...] [--check | --demo [--exit] [--seconds N]]",
        description="Serves, learns and watches over experiments that release ML and LLM variants by evidence.",
        epilog=_EPILOG,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, max_help_position=26, width=112
        ),
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="with doctor: as JSON")
    parser.add_argument("--version", action="store_true", help="show the version and end")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings in TOML")
    parser.add_argument("--check", action="store_true", help="check the settings, show them and end")
    demo = parser.add_argument_group("demo")
    demo.add_argument(
        "--demo", action="store_true", help="run everything in a temporary folder with a simulated world"
    )
    demo.add_argument(
        "--exit", action="store_true", help="end by itself; the exit code says whether all went well"
    )
    demo.add_argument("--seconds", type=float, metavar="N", help="with --exit: how long the world lives")
    settings = parser.add_argument_group("settings")
    for name in SETTINGS:
        if has_flag(name):
            _add_setting(settings, name)
    doctor = list(arguments[:1]) == [DOCTOR]
    options, rest = parser.parse_known_args(arguments[doctor:])
    options.doctor = doctor
    if rest:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        hint = nearest(rest[0].partition("=")[0], flags) if rest[0].startswith("-") else "it takes flags only"
        parser.error(f"{rest[0]!r} is not known; {hint}")
    if options.json and not doctor:
        parser.error("--json belongs to doctor")
    if doctor and (options.demo or options.check):
        parser.error("doctor goes without --demo and --check")
    if (options.exit or options.seconds is not None) and not options.demo:
        parser.error("--exit and --seconds belong to --demo")
    if options.demo and options.check:
        parser.error("--check and --demo exclude each other")
    return options


def _add_setting(group: argparse._ArgumentGroup, name: str) -> None:
    default = default_of(name)
    shown = str(default).lower() if isinstance(default, bool) else str(default)
    if name == "data_dir":
        shown = "$XDG_STATE_HOME/banditd or ~/.local/state/banditd"
    text = f"{meaning_of(name)} ({shown})".replace("%", "%%")
    if isinstance(default, bool):
        group.add_argument(
            flag_of(name), action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text
        )
        return
    metavar = {"data_dir": "DIR", "store": "URL"}.get(name) or (
        "N" if isinstance(default, int | float) else "VALUE"
    )
    group.add_argument(flag_of(name), dest=name, default=argparse.SUPPRESS, metavar=metavar, help=text)


def _demo_arguments(options: argparse.Namespace) -> list[str]:
    seconds = [] if options.seconds is None else ["--seconds", str(options.seconds)]
    return [*(["--exit"] if options.exit else []), *seconds]


def _check_sources(config: Config) -> None:
    """Raises InvalidArgument with every mistake of every source."""
    if config.sources:
        from server.ingest import SOURCES, settings

        settings.read(config.sources, SOURCES)


def _show(loaded: Loaded) -> None:
    """The settings as TOML, secrets masked, each with where it comes from."""
    import json

    lines = [
        (f"{name} = {json.dumps(value, ensure_ascii=False)}", loaded.origins[name].place)
        for name, value in loaded.config.shown().items()
        if name != "sources"
    ]
    width = min(60, max(len(line) for line, _ in lines))
    sys.stdout.write("".join(f"{line:<{width}}  # {place}\n" for line, place in lines))
    if loaded.config.sources:
        from server.ingest import SOURCES, settings

        for chosen in settings.read(loaded.config.sources, SOURCES):
            rows = [f"{name} = {_toml(value)}\n" for name, value in settings.shown(chosen).items()]
            sys.stdout.write("".join(["\n[[sources]]\n", *rows]))


def _toml(value: object) -> str:
    """A plain value as TOML; None, which it has not, as an empty text."""
    import json

    if isinstance(value, dict):
        return (
            f"{{ {', '.join(f'{json.dumps(str(name))} = {_toml(each)}' for name, each in value.items())} }}"
        )
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps("" if value is None else value, ensure_ascii=False)


def _child(arguments: Sequence[str]) -> NoReturn:
    """A child process: see ``server.supervise`` for who starts it with these arguments."""
    import faulthandler

    from server.config import handed_over
    from server.supervise.lifeline import pulse, reporter, tie
    from server.telemetry import logs

    parser = argparse.ArgumentParser(prog="banditd --child", allow_abbrev=False)
    parser.add_argument("kind", choices=["serve", "learn", "ingest", "web", "demo"])
    parser.add_argument("--line-fd", type=int, required=True)
    parser.add_argument("--ready-fd", type=int, required=True)
    parser.add_argument("--pulse-fd", type=int, required=True)
    options, rest = parser.parse_known_args(arguments)
    orders = tie(options.line_fd)
    ready = reporter(options.ready_fd)
    faulthandler.enable()
    if options.kind == "demo":
        ready()
        from server.demo.__main__ import main as play

        sys.exit(play(rest))
    config = handed_over(orders.config)
    logs.configure(config.log_level, config.log_format, orders.part)
    beat = pulse(options.pulse_fd)
    code = _guarded(lambda: _work(options.kind, config, orders, ready, beat))
    logs.flush_streams()
    # Not through the interpreter's end: it would wait for threads of libraries that may never come back.
    os._exit(code)


def _work(
    kind: str, config: Config, orders: Orders, ready: Callable[[], None], beat: Callable[[], None]
) -> int:
    from server.telemetry import shared

    shared.join(shared.folder_of(config.data_dir), orders.part)
    if kind == "web":
        from server.web import edge

        return edge.run(config, ready)
    from server import app

    if kind == "serve":
        return app.run_serving(config, orders.issuer, ready, beat)
    if kind == "ingest":
        return app.run_ingest(config, ready, beat)
    return app.run_learner(config, ready, beat)


def _guarded(work: Callable[[], int]) -> int:
    """The exit code; an error that trying again cannot cure has one of its own."""
    import structlog

    from server.supervise.lifeline import HOPELESS

    log = structlog.get_logger(__name__)
    try:
        return work()
    except (InvalidArgument, NotAllowed) as error:
        log.critical("part_refused", reason=str(error))
        return HOPELESS
    except BanditError as error:
        log.critical("part_failed", reason=str(error))
        return FAILED
    except Exception:
        log.exception("part_failed")
        return FAILED


def _say(sentence: str) -> None:
    sys.stderr.write(f"banditd: {sentence}\n")


if __name__ == "__main__":
    main()
