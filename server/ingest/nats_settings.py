"""Settings of a NATS JetStream source. It connects to nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from server.config.values import choice, is_loopback, seconds, switch, whole
from server.ingest.settings import setting, text, texts

_SERVER = re.compile(r"(?P<scheme>nats|tls)://(?P<place>\[?[A-Za-z0-9.:_-]+\]?:\d{1,5})")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
_SUBJECT = re.compile(r"[^\s.]+(\.[^\s.]+)*")


def _servers(raw: object) -> tuple[str, ...]:
    found: tuple[str, ...] = texts()(raw)
    if not all(_SERVER.fullmatch(url) for url in found):
        raise ValueError(
            "nats://HOST:PORT or tls://HOST:PORT, without a user; user and password are settings"
        )
    return found


def _name(raw: object) -> str:
    if not isinstance(raw, str) or not _NAME.fullmatch(raw):
        raise ValueError("1 to 100 letters, digits, underscores and hyphens")
    return raw


def _subjects(raw: object) -> tuple[str, ...]:
    found: tuple[str, ...] = texts()(raw)
    if not all(_SUBJECT.fullmatch(subject) for subject in found):
        raise ValueError("subjects, as in rewards.>")
    return found


def _file(raw: object) -> str:
    path: str = text()(raw)
    return str(Path(path).expanduser().absolute())


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsSettings:
    """A NATS source. Raises ValueError for settings that contradict each other."""

    servers: tuple[str, ...] = setting(_servers, "URLs of servers, nats:// or tls://")
    stream: str = setting(_name, "name of the stream")
    durable: str = setting(
        _name, "name of the durable consumer; processes that share it divide the events", default="banditd"
    )
    subjects: tuple[str, ...] = setting(
        _subjects, "subjects of the stream that are read; all without", default=()
    )
    begin: str = setting(
        choice("earliest", "latest"), "where to begin when the durable consumer is made", default="earliest"
    )
    ack_wait_s: float = setting(
        seconds(1, 3600), "how long an event may be open before the server brings it again", default=30.0
    )
    open_events: int = setting(whole(1, 100_000), "most events that are open at once", default=5000)
    check_s: float = setting(
        seconds(0.5, 3600),
        "how often the stream is asked how it is, and whether it was made again",
        default=5.0,
    )
    user: str = setting(text(200), "user name", default="")
    password: str = setting(text(1000), "password of the user", default="", secret=True)
    token: str = setting(text(1000), "token in place of user and password", default="", secret=True)
    credentials: str = setting(_file, "file with a JWT and its seed", default="")
    ca: str = setting(
        _file, "file of the authorities that servers' certificates are checked with", default=""
    )
    certificate: str = setting(_file, "file of our certificate", default="")
    key: str = setting(_file, "file of its key", default="")
    allow_plaintext: bool = setting(switch, "speak to other machines without TLS", default=False)

    def __post_init__(self) -> None:
        for url in self.servers:
            found = _SERVER.fullmatch(url)
            assert found is not None
            clear = found["scheme"] == "nats" and not self.ca
            if clear and not self.allow_plaintext and not is_loopback(found["place"]):
                raise ValueError(
                    f"{url} is on another machine and would be spoken to without TLS; write tls://, or set "
                    "allow_plaintext where the network is trusted"
                )
        ways = [name for name in ("user", "token", "credentials") if getattr(self, name)]
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)} exclude each other; keep one")
        if bool(self.password) != bool(self.user):
            raise ValueError("user and password belong together; give both or none")
        if bool(self.certificate) != bool(self.key):
            raise ValueError("certificate and key belong together; give both or none")

    @property
    def tls(self) -> bool:
        """Are servers spoken to with TLS?"""
        return bool(self.ca) or any(url.startswith("tls://") for url in self.servers)
