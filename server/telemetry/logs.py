"""Where log lines go and how they look: one line an event, to stderr; text on a terminal, else JSON.

Names of events are `noun_verbed`; values are keys. It decides nothing about what is logged, and a line that cannot
be written is lost rather than a reason to stop.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog

_STDERR = 2


def configure(level: str, form: str, part: str) -> None:
    """Set logging up for this process: at least ``level``, as ``form`` (auto, text, json), each line naming ``part``.

    Lines of other packages that use the standard library's logging come out the same way, from WARNING up.
    """
    least = logging.getLevelNamesMapping()[level.upper()]
    terminal = os.isatty(_STDERR)
    as_text = form == "text" or (form == "auto" and terminal)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S.%f" if as_text else "iso", utc=not as_text),
            _named(part),
            *_renderers(as_text=as_text, colors=as_text and terminal and not os.environ.get("NO_COLOR")),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=lambda *_: _Lines(),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Foreign()]
    root.setLevel(max(least, logging.WARNING))


def _renderers(*, as_text: bool, colors: bool) -> list[Any]:
    if not as_text:
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    return [
        structlog.dev.ConsoleRenderer(
            colors=colors,
            # The one of rich shows the values of variables, and secrets with them.
            exception_formatter=structlog.dev.plain_traceback,
            pad_event_to=24,
        )
    ]


def _named(part: str) -> Callable[[Any, str, MutableMapping[str, Any]], MutableMapping[str, Any]]:
    """Adds who speaks, and puts what every line has first."""

    def name(_: Any, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        head = {key: line.pop(key, None) for key in ("timestamp", "level", "event")}
        return {**head, "part": part, **line}

    return name


class _Lines:
    """Writes each line to stderr in one call, so that lines of several processes do not mix."""

    def msg(self, line: str) -> None:
        left = (line + "\n").encode("utf-8", "backslashreplace")
        try:
            while left:
                left = left[os.write(_STDERR, left) :]
        except OSError:
            pass  # whoever read is gone

    log = debug = info = warning = warn = error = critical = fatal = exception = failure = msg


class _Foreign(logging.Handler):
    """Gives lines of the standard library's logging to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        write = getattr(structlog.get_logger(), record.levelname.lower(), None)
        if write is None:
            write = structlog.get_logger().warning
        # exc_info may be the (None, None, None) of a call outside of any except.
        error = record.exc_info if record.exc_info and record.exc_info[0] else None
        write("package_logged", package=record.name, message=record.getMessage(), exc_info=error)


def flush_streams() -> None:
    """Push out what Python still holds for stdout and stderr; for the last moment before an abrupt end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue
