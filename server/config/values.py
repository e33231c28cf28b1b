"""What the value of a setting may be; a parser takes text or a TOML value, or raises ValueError(what is allowed)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

EMBEDDED = "embedded"
OFF = "off"
SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
_HOST_PORT = re.compile(r"(?P<host>\[[0-9a-fA-F:.%]+\]|[^\s:/\[\]@]+):(?P<port>[0-9]{1,5})")
_PASSWORD = re.compile(r"://([^:@/?]*):.*@", re.DOTALL)
_SECRET_IN_QUERY = re.compile(r"([?&][^=&]*(?:pass|secret|token)[^=&]*=)[^&]*", re.IGNORECASE)

_SECRET_NAME = re.compile(r"pass|secret|token|key|credential|jwt|seed|jaas", re.IGNORECASE)
_TABLES = "tables: [[sources]] in the file of --config, or a list of objects in JSON"
MASKED = "***"
MOST_TABLES_BYTES = 32 << 10

Parse = Callable[[object], Any]


def whole(low: int, high: int) -> Parse:
    """A whole number of this range."""

    def parse(raw: object) -> int:
        if isinstance(raw, str) and re.fullmatch(r"-?[0-9]{1,19}", raw):
            raw = int(raw)
        if isinstance(raw, bool) or not isinstance(raw, int) or not low <= raw <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return raw

    return parse


def seconds(low: float, high: float) -> Parse:
    """A finite number of seconds of this range."""

    def parse(raw: object) -> float:
        allowed = f"seconds from {low:g} to {high:g}"
        if isinstance(raw, str):
            try:
                raw = float(raw)
            except ValueError:
                raise ValueError(allowed) from None
        if isinstance(raw, bool) or not isinstance(raw, int | float):
            raise ValueError(allowed)
        if not math.isfinite(raw) or not low <= raw <= high:
            raise ValueError(allowed)
        return float(raw)

    return parse


def choice(*words: str) -> Parse:
    """One of these words."""

    def parse(raw: object) -> str:
        if raw not in words:
            raise ValueError(f"one of {', '.join(words)}")
        return str(raw)

    return parse


def switch(raw: object) -> bool:
    """Yes or no."""
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, str) and raw.lower() in ("true", "1", "yes", "on"):
        return True
    if isinstance(raw, str) and raw.lower() in ("false", "0", "no", "off"):
        return False
    raise ValueError("true or false")


def folder(raw: object) -> Path:
    """An absolute path; ``~`` is the home folder."""
    if not isinstance(raw, str) or not raw or "\0" in raw:
        raise ValueError("the path of a folder")
    return Path(raw).expanduser().absolute()


def address(raw: object) -> str:
    """HOST:PORT."""
    host_port(raw)
    return str(raw)


def address_or_off(raw: object) -> str:
    """HOST:PORT, or off."""
    return OFF if raw == OFF else address(raw)


def store(raw: object) -> str:
    """The embedded store, or the URL of one; what the URL says beyond its scheme is for the store's client to judge."""
    scheme, separator, rest = str(raw).partition("://")
    known = isinstance(raw, str) and separator and scheme in SCHEMES and rest
    if raw != EMBEDDED and (not known or (scheme == "unix" and "/" not in rest)):
        raise ValueError(
            f"{EMBEDDED}, redis://HOST:PORT/DB, rediss://HOST:PORT/DB, unix:///PATH, "
            "redis+sentinel://HOST:PORT,HOST:PORT/SERVICE or redis+cluster://HOST:PORT,HOST:PORT"
        )
    return str(raw)


def tables(raw: object) -> tuple[dict[str, object], ...]:
    """TOML tables, or the JSON of a list of such; what may be in them is for whoever they are for to judge."""
    if isinstance(raw, str):
        try:
            raw = json.loads(raw)
        except (ValueError, RecursionError):
            raise ValueError(_TABLES) from None
    if not isinstance(raw, list | tuple) or not all(isinstance(each, dict) for each in raw):
        raise ValueError(_TABLES)
    try:
        text = json.dumps(raw)
    except (TypeError, ValueError):  # a date of TOML
        raise ValueError(f"{_TABLES}, of texts, numbers, true, false, lists and tables") from None
    if len(text) > MOST_TABLES_BYTES:
        raise ValueError(f"{_TABLES}, of at most {MOST_TABLES_BYTES} bytes in all")
    return tuple(dict(each) for each in raw)


def masked(value: object, name: str = "") -> object:
    """Tables fit for logs: URLs without passwords, and nothing of what is named like a secret."""
    if _SECRET_NAME.search(name):
        return MASKED
    if isinstance(value, Mapping):
        return {str(key): masked(each, str(key)) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [masked(each) for each in value]
    return mask(value) if isinstance(value, str) and "://" in value else value


def host_port(raw: object) -> tuple[str, int]:
    """Host (IPv6 without brackets) and port (0 to 65535; 0: any free one) of HOST:PORT. Raises ValueError."""
    found = _HOST_PORT.fullmatch(raw) if isinstance(raw, str) else None
    if found is None or int(found["port"]) > 65535:
        raise ValueError("HOST:PORT, as in 127.0.0.1:50061 or [::1]:50061")
    return found["host"].strip("[]"), int(found["port"])


def is_loopback(place: str) -> bool:
    """True when only this machine can reach HOST:PORT; a host name other than localhost counts as reachable."""
    import ipaddress

    host, _ = host_port(place)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def mask(url: str) -> str:
    """The URL without its password and other secrets; fit for logs."""
    if "://" not in url and "@" in url:  # written wrongly, but a password all the same
        return "***" + url[url.rindex("@") :]
    return _SECRET_IN_QUERY.sub(r"\1***", _PASSWORD.sub(r"://\1:***@", url))
