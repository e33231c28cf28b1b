"""From a TOML file, over it the environment, over that the flags, to a Config, or to every mistake at once.

It opens nothing but the TOML file. What it says of a mistake: what was seen and where, what is allowed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bandit.errors import InvalidArgument, Violation
from server.config.settings import OFF, PREFIX, SETTINGS, Config, flag_of, has_flag, parse_of, variable_of
from server.config.values import MASKED, host_port, is_loopback, mask, masked

CONFIG_VARIABLE = PREFIX + "CONFIG"
# No settings: what Kubernetes sets in every pod when a Service is called banditd, and what the demo is told.
_FOREIGN = re.compile(r"BANDITD_(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_.*)?|DEMO_.*)")


class Origin(NamedTuple):
    """Where a value was set: ``place`` for people; ``given`` False for a default."""

    place: str
    given: bool = True


DEFAULT = Origin("default", given=False)


class Loaded(NamedTuple):
    """A valid Config and where each of its values comes from."""

    config: Config
    origins: Mapping[str, Origin]


class _Given(NamedTuple):
    name: str
    raw: object
    origin: Origin


_Layer = Iterator[_Given | Violation]


def load(flags: Mapping[str, object], environment: Mapping[str, str], *, file: Path | None = None) -> Loaded:
    """The Config; ``flags`` by name of the setting, only those given. Raises InvalidArgument with every mistake.

    Without ``file`` the environment may name one (BANDITD_CONFIG).
    """
    if file is None and (path := environment.get(CONFIG_VARIABLE)):
        file = Path(path)
    return _merged(_from_file(file), _from_environment(environment), _from_flags(flags))


def handed_over(text: str) -> Config:
    """The Config that ``Config.to_json`` wrote."""
    values: dict[str, object] = json.loads(text)
    return _merged(_Given(name, raw, Origin("handed over")) for name, raw in values.items()).config


def nearest(word: str, words: Iterable[str]) -> str:
    """`did you mean X?`, or all the words when none is near."""
    from difflib import get_close_matches

    known = list(words)
    near = get_close_matches(word, known, 1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"


def _merged(*layers: Iterable[_Given | Violation]) -> Loaded:
    given: dict[str, _Given] = {}
    faults: list[Violation] = []
    for layer in layers:
        for each in layer:
            if isinstance(each, Violation):
                faults.append(each)
            else:
                given[each.name] = each
    parsed: dict[str, Any] = {}
    for name, raw, origin in given.values():
        try:
            parsed[name] = parse_of(name)(raw)
        except ValueError as allowed:
            seen = (mask(raw) if isinstance(raw, str) else masked(raw)) if has_flag(name) else MASKED
            faults.append(Violation(name, f"{seen!r} ({origin.place}) is not allowed; it is to be {allowed}"))
    if not faults:
        config = Config(**parsed)
        origins = {name: given[name].origin if name in given else DEFAULT for name in SETTINGS}
        faults.extend(_contradictions(config, origins))
        if not faults:
            return Loaded(config, origins)
    text = "; ".join(f"{fault.field}: {fault.description}" for fault in faults)
    raise InvalidArgument(text, reason="BAD_CONFIG", violations=faults)


def _from_flags(flags: Mapping[str, object]) -> _Layer:
    for name, raw in flags.items():
        if name == "store" and mask(str(raw)) != raw:
            yield Violation(
                flag_of(name),
                "the URL holds a password, which every user of this machine could read in the list of processes; "
                f"set {variable_of(name)}, or write it into the file of --config",
            )
        else:
            yield _Given(name, raw, Origin(f"flag {flag_of(name)}"))


def _from_environment(environment: Mapping[str, str]) -> _Layer:
    variables = {variable_of(name): name for name in SETTINGS}
    for variable in sorted(environment):
        if variable in variables:
            yield _Given(variables[variable], environment[variable], Origin(f"environment {variable}"))
        elif variable.startswith(PREFIX) and not _is_foreign(variable):
            hint = nearest(variable, [*variables, CONFIG_VARIABLE])
            yield Violation(variable, f"no setting has this variable; {hint}")


def _is_foreign(variable: str) -> bool:
    return variable == CONFIG_VARIABLE or _FOREIGN.fullmatch(variable) is not None


def _from_file(file: Path | None) -> _Layer:
    if file is None:
        return
    import tomllib

    try:
        text = file.read_text("utf-8")
        table = tomllib.loads(text)
    except OSError as error:
        yield Violation(str(file), f"cannot be read ({error.strerror}); give --config a readable TOML file")
        return
    except ValueError as error:  # of TOML, or of UTF-8
        yield Violation(str(file), f"is no TOML: {error}")
        return
    for name, raw in table.items():
        place = f"{file.name} line {_line_of(text, name)}"
        if name in SETTINGS:
            yield _Given(name, raw, Origin(place))
        else:
            yield Violation(name, f"({place}) no such setting; {nearest(name.replace('-', '_'), SETTINGS)}")


def _line_of(text: str, name: str) -> int:
    """Line of a top-level key or table in TOML text; 1 when it is written in a way that is not looked for."""
    key = re.compile(rf"""\s*\[*\s*["']?{re.escape(name)}["']?\s*[=.\]]""")
    return next((at for at, line in enumerate(text.splitlines(), 1) if key.match(line)), 1)


def _contradictions(config: Config, origins: Mapping[str, Origin]) -> Iterator[Violation]:
    for name in ("listen", "http_listen"):
        place = getattr(config, name)
        if place == OFF or config.allow_plaintext or is_loopback(place):
            continue
        yield Violation(
            name,
            f"{place!r} ({origins[name].place}) can be reached from other machines and would speak without TLS; "
            f"listen on 127.0.0.1:{host_port(place)[1]}, or set allow_plaintext where the network is trusted",
        )
    if config.listen == config.http_listen and host_port(config.listen)[1]:
        yield Violation(
            "http_listen", f"{config.http_listen!r} is the address of listen too; give it another port"
        )
    if config.role == "ingest" and not config.sources:
        yield Violation("sources", "there are none, but role ingest reads nothing else; add [[sources]]")
    if config.role == "web" and config.http_listen == OFF:
        yield Violation(
            "http_listen", "it is off, but role web is nothing else; set an address, or another role"
        )
