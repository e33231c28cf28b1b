"""The settings: one field each, from which its file key, variable and flag follow; it reads none of them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from server.config.values import (
    EMBEDDED,
    OFF,
    Parse,
    address,
    address_or_off,
    choice,
    folder,
    mask,
    masked,
    seconds,
    store,
    switch,
    tables,
    whole,
)

PREFIX = "BANDITD_"
__all__ = ["EMBEDDED", "OFF", "SETTINGS", "Config"]


def _state_folder() -> Path:
    # The XDG rules: a relative path in the variable is to be ignored.
    given = os.environ.get("XDG_STATE_HOME", "")
    base = Path(given) if given.startswith("/") else Path.home() / ".local/state"
    return base / "banditd"


def _half_the_cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // 2)


def _is(parse: Parse, meaning: str) -> dict[str, Any]:
    return {"parse": parse, "meaning": meaning}


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Config:
    """All settings of one run. In a child process ``store`` is always a URL and no port is 0."""

    data_dir: Path = field(
        default_factory=_state_folder,
        metadata=_is(folder, "folder of the exposure journal, the embedded store and the lock"),
    )
    store: str = field(
        default=EMBEDDED,
        metadata=_is(store, "embedded, or the URL of a Redis (>= 6.2) or Valkey server"),
    )
    role: str = field(
        default="all",
        metadata=_is(
            choice("all", "serve", "learn", "ingest", "web"),
            "what runs here: all, or one of serve, learn, ingest (each with the HTTP edge), web (only that)",
        ),
    )
    listen: str = field(default="127.0.0.1:50061", metadata=_is(address, "HOST:PORT of the gRPC server"))
    http_listen: str = field(
        default="127.0.0.1:50080", metadata=_is(address_or_off, "HOST:PORT of health and metrics, or off")
    )
    http_events: bool = field(
        default=True, metadata=_is(switch, "take rewards over HTTP too, at /v1/events of http_listen")
    )
    allow_plaintext: bool = field(
        default=False, metadata=_is(switch, "allow to listen beyond this machine without TLS")
    )
    workers: int = field(
        default_factory=_half_the_cores,
        metadata=_is(whole(1, 256), "serving processes; they share the gRPC port"),
    )
    threads: int = field(
        default=8, metadata=_is(whole(1, 256), "threads of a serving process that answer calls")
    )
    streams: int = field(
        default=64, metadata=_is(whole(0, 4096), "most streams that a serving process keeps open")
    )
    reflection: bool = field(default=False, metadata=_is(switch, "answer gRPC reflection"))
    reward_durability: str = field(
        default="memory",
        metadata=_is(
            choice("memory", "replicated", "fsynced"),
            "how safe rewards are before they are answered, where the call does not say",
        ),
    )
    rewards_per_s: int = field(
        default=0,
        metadata=_is(
            whole(0, 10**9),
            "most rewards a second that each process takes from one client, by its address; 0: any number",
        ),
    )
    drain_s: float = field(
        default=10.0, metadata=_is(seconds(0, 600), "longest time for calls under way when a server stops")
    )
    poll_s: float = field(
        default=0.75, metadata=_is(seconds(0.05, 60), "how often a server asks the store what changed")
    )
    exposure_lease_s: float = field(
        default=300.0,
        metadata=_is(
            seconds(1, 604_800),
            "how long a server that does not reach the store gives challengers traffic; then all get the control",
        ),
    )
    journal_bytes: int = field(
        default=1 << 30,
        metadata=_is(whole(1 << 20, 1 << 40), "most disk that a server's exposures take while they wait"),
    )
    tick_s: float = field(
        default=0.25, metadata=_is(seconds(0.02, 60), "how often the learner looks at an experiment")
    )
    lease_ttl_s: float = field(
        default=5.0,
        metadata=_is(seconds(2, 300), "how long a learner that fell silent keeps its experiments"),
    )
    hang_s: float = field(
        default=120.0,
        metadata=_is(
            seconds(0, 86_400),
            "a server, learner or reader whose work stands still for so long is killed and started again; 0: never",
        ),
    )
    sources: tuple[dict[str, object], ...] = field(
        default=(),
        metadata={
            **_is(tables, "sources of rewards, one table each: name, kind and the settings of the kind"),
            "flag": False,
        },
    )
    log_level: str = field(
        default="info",
        metadata=_is(choice("debug", "info", "warning", "error"), "debug, info, warning or error"),
    )
    log_format: str = field(
        default="auto",
        metadata=_is(choice("auto", "text", "json"), "text, json, or auto: text on a terminal"),
    )

    def shown(self) -> dict[str, object]:
        """Settings by name as plain values; the store's password is masked."""
        return {**self._plain(), "store": mask(self.store), "sources": masked(self.sources)}

    def to_json(self) -> str:
        """All settings, secrets too: for a pipe between processes, never for a log or a command line."""
        return json.dumps(self._plain())

    def _plain(self) -> dict[str, object]:
        values = {name: getattr(self, name) for name in SETTINGS}
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}

    def __repr__(self) -> str:
        return f"Config({', '.join(f'{name}={value!r}' for name, value in self.shown().items())})"


SETTINGS: Mapping[str, Field[Any]] = {each.name: each for each in fields(Config)}


def parse_of(name: str) -> Parse:
    """The parser of a setting's value."""
    parse: Parse = SETTINGS[name].metadata["parse"]
    return parse


def meaning_of(name: str) -> str:
    """What a setting is, for people."""
    return str(SETTINGS[name].metadata["meaning"])


def default_of(name: str) -> object:
    """The value of a setting that nobody set."""
    each = SETTINGS[name]
    return each.default if each.default_factory is MISSING else each.default_factory()


def has_flag(name: str) -> bool:
    """Can it be given on the command line?"""
    return bool(SETTINGS[name].metadata.get("flag", True))


def variable_of(name: str) -> str:
    """Environment variable of a setting."""
    return PREFIX + name.upper()


def flag_of(name: str) -> str:
    """Command-line flag of a setting."""
    return "--" + name.replace("_", "-")
