"""Settings of a Kafka source, and the client's own settings that follow from them. It connects to nothing.

What decides about exactness (commits, offsets, membership) is ours; what is about the network, TLS and SASL is passed
on to librdkafka by its own names, in ``client`` and, masked, in ``secrets``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from server.config.values import choice, host_port, is_loopback, seconds
from server.ingest.settings import setting, text, texts

Pairs = tuple[tuple[str, str], ...]
PREFETCH_KBYTES = 16 << 10
PLAIN = "plaintext"
# Position fields take 200 bytes, of which a partition's number needs some.
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,180}")
_OPEN = re.compile(
    r"(socket|fetch|reconnect|retry|metadata|broker|topic\.metadata|ssl|sasl\.kerberos)\.[a-z0-9.]+"
    r"|sasl\.(mechanisms?|username)|client\.(id|rack|dns\.lookup)|receive\.message\.max\.bytes|check\.crcs|debug"
)
_SECRET = re.compile(r"(ssl|sasl)\.[a-z0-9.]+")
_HUSHED = re.compile(r"password|secret|\.pem$|\.key$")
_MOST_PARTITIONS = 4096


def _topics(raw: object) -> tuple[str, ...]:
    names: tuple[str, ...] = texts()(raw)
    if not all(_TOPIC.fullmatch(name) for name in names):
        raise ValueError("names of topics: at most 180 letters, digits, dots, underscores and hyphens each")
    return tuple(dict.fromkeys(names))


def _servers(raw: object) -> tuple[str, ...]:
    places: tuple[str, ...] = texts()(raw)
    for place in places:
        host_port(place)
    return places


def _partitions(raw: object) -> tuple[int, ...]:
    fine = isinstance(raw, list | tuple) and all(type(each) is int and each >= 0 for each in raw)
    if not fine or not isinstance(raw, list | tuple) or not 0 < len(raw) <= _MOST_PARTITIONS:
        raise ValueError("a list of numbers of partitions, as in [0, 1]")
    return tuple(sorted(set(raw)))


def _passed(raw: object) -> Pairs:
    # Names are judged later: what is said of a mistake here would show the values too.
    if not isinstance(raw, Mapping) or not all(
        isinstance(value, str | int | float) for value in raw.values()
    ):
        raise ValueError('a table of settings of librdkafka, as in {"ssl.ca.location" = "/etc/ca.pem"}')
    return tuple(
        sorted(
            (str(name), str(value).lower() if isinstance(value, bool) else str(value))
            for name, value in raw.items()
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaSettings:
    """A Kafka source. Raises ValueError for settings that contradict each other."""

    servers: tuple[str, ...] = setting(_servers, "HOST:PORT of brokers")
    topics: tuple[str, ...] = setting(_topics, "names of topics")
    group: str = setting(text(200), "name of the consumer group", default="banditd")
    member: str = setting(
        text(200), "a fixed name in the group (static membership), another one for each process", default=""
    )
    assignment: str = setting(
        choice("cooperative", "eager"), "how the group divides partitions", default="cooperative"
    )
    partitions: tuple[int, ...] = setting(
        _partitions, "partitions to read of each topic without joining the group", default=()
    )
    identity: str = setting(
        choice("topic", "cluster"),
        "what tells a topic that was made again: its id, or the cluster's for brokers before 2.8",
        default="topic",
    )
    begin: str = setting(
        choice("earliest", "latest"), "where to begin when nothing was ever read", default="earliest"
    )
    isolation: str = setting(
        choice("read_committed", "read_uncommitted"),
        "whether records of open and aborted transactions are read",
        default="read_committed",
    )
    security: str = setting(
        choice(PLAIN, "ssl", "sasl_plaintext", "sasl_ssl"),
        "how brokers are spoken to; must be given when they are not on this machine",
        default="",
    )
    session_timeout_s: float = setting(
        seconds(3, 1800), "silence after which the group gives our partitions away", default=45.0
    )
    stall_s: float = setting(
        seconds(4, 86_400),
        "time without progress after which we leave the group (max.poll.interval)",
        default=300.0,
    )
    commit_s: float = setting(seconds(0, 60), "how often offsets are committed", default=0.5)
    check_s: float = setting(
        seconds(0.5, 3600), "how often topics are asked whether they were made again", default=5.0
    )
    client: tuple[tuple[str, str], ...] = setting(_passed, "further settings of librdkafka", default=())
    secrets: tuple[tuple[str, str], ...] = setting(_passed, "those that are secret", default=(), secret=True)

    def __post_init__(self) -> None:
        self._check_passed()
        if not self.security and not all(is_loopback(place) for place in self.servers):
            raise ValueError(
                "security is missing and the brokers are on other machines; set ssl or sasl_ssl, or plaintext "
                "where the network is trusted"
            )
        if self.stall_s < self.session_timeout_s:
            raise ValueError(
                f"stall_s {self.stall_s:g} is less than session_timeout_s {self.session_timeout_s:g}; make it as long "
                "at least"
            )
        if self.partitions and self.member:
            raise ValueError(
                "member belongs to a group, and partitions are read without one; leave one of them out"
            )

    def _check_passed(self) -> None:
        for name, _ in self.client:
            if _HUSHED.search(name) and _SECRET.fullmatch(name):
                raise ValueError(
                    f"client: {name} may be secret; write it into the table secrets, which is masked"
                )
            if not _OPEN.fullmatch(name):
                raise ValueError(
                    f"client: {name} is not passed on; settings of TLS, SASL, sockets and fetching are, by the names "
                    "of librdkafka"
                )
        for name, _ in self.secrets:
            if not _SECRET.fullmatch(name):
                raise ValueError(f"secrets: {name} is not passed on; settings of ssl and sasl are")
        both = dict(self.client).keys() & dict(self.secrets).keys()
        if both:
            raise ValueError(f"{', '.join(sorted(both))} is both in client and in secrets; leave one out")

    def connection(self) -> dict[str, str | int | float | bool]:
        """What every client of these brokers needs."""
        return {
            "bootstrap.servers": ",".join(self.servers),
            "client.id": "banditd",
            "security.protocol": self.security or PLAIN,
            "log_level": 0,  # what matters comes as an error, and into our log
            **dict(self.client),
            **dict(self.secrets),
        }

    def consumer(self) -> dict[str, str | int | float | bool]:
        """What the consumer needs: nothing is committed, and no offset is chosen, behind our back."""
        timeout_ms = round(self.session_timeout_s * 1000)
        member = {"group.instance.id": self.member} if self.member else {}
        strategy = "cooperative-sticky" if self.assignment == "cooperative" else "range"
        return {
            "queued.max.messages.kbytes": PREFETCH_KBYTES,
            "fetch.wait.max.ms": 100,
            **self.connection(),
            "group.id": self.group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "isolation.level": self.isolation,
            "partition.assignment.strategy": strategy,
            "session.timeout.ms": timeout_ms,
            "heartbeat.interval.ms": max(min(timeout_ms // 3, 3000), 1),
            "max.poll.interval.ms": round(self.stall_s * 1000),
            "allow.auto.create.topics": False,
            **member,
        }
