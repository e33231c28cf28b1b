"""Every key of the store, named in this one file; it reads and writes none of them.

Keys of one experiment share the hash tag ``{name}``, so one script touches one slot. Experiment names begin with a
letter, so the tags ``{_registry}`` and ``{_sources}`` of what belongs to all experiments can never be one of them. A
further partition of an experiment has the tag ``{name/1}`` and so on, and of the keys below head (uid, sequence and
sizes), log, writer, periods, pages, exposed, shipped, foreign and its lists, fed, and replies::

    {name}:head         hash    documents, generation, fences and sizes of the ledger    lives with the experiment
    {name}:allocations  zset    allocations that are no periods yet, by number           lives with the experiment
    {name}:audit        list    audit records, oldest first; sequence n at index n - 1   lives with the experiment
    {name}:requests     hash    digest of a request id -> revision                       a day
    {name}:requested    zset    digest of a request id, by time in ms                    a day
    {name}:lease        hash    owner and token of the one writer                        the lease
    {name}:status       string  last published status                                    lives with the experiment
    {name}:report       string  last published report                                    lives with the experiment
    {name}:log          stream  exposures and rewards, see ``bandit.log``                until folded and trimmed
    {name}:writer       string  offset, counts and sizes of the ledger, packed           lives with the experiment
    {name}:periods      hash    number -> period, packed                                 lives with the experiment
    {name}:pages        hash    page key -> marks or values, packed                      dropped by folds
    {name}:exposed      hash    issuer -> next exposure not counted                      lives with the experiment
    {name}:shipped      hash    issuer -> next exposure that the log does not have       lives with the experiment
    {name}:foreign      hash    bucket -> number of ids in its list                      dropped by folds
    {name}:foreign:B    list    chunks of ids of bucket B, packed                        dropped by folds
    {name}:folded       string  accumulators of the guardrails, packed                   lives with the experiment
    {name}:base:...           writer, periods, pages, exposed, foreign with its lists, folded: the ledger of the time
                              before the events that are kept; likewise
    {name}:fed          hash    positions and counts of sources of rewards               lives with the experiment
    {name}:secured      string  a write to wait for                                      a minute
    {name}:reply:R      list    one element: outcome bytes of the log entry R            a minute
    {name}:past         list    audit records of the last deleted one of the name        90 days
    {name}:deletion     string  digest of the request id that deleted it                 a day

    {_registry}:version string  number of the last change, which readers poll            for ever
    {_registry}:names   hash    name -> uid of every experiment (and of some lost ones)  for ever
    {_registry}:pending zset    commits begun and not yet told, by time in ms            seconds
    {_registry}:numbers hash    last experiment number and last issuer number given      for ever
    {_registry}:tokens  string  keys that sign decision tokens                           for ever
    {_registry}:beat    string  last learner that said it is alive                       its time
    {_sources}:fed      hash    positions and counts of sources, for the dead letters    for ever
    {_sources}:letters  stream  dead letters, the newest so many                         until replayed or too many
    {_sources}:places   zset    source and place of a dead letter, by time in s          the newest so many
    {_sources}:states   hash    source -> how it said it is                              for ever
    changes             channel names of experiments that changed
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from bandit.seen import BucketKey

NAMESPACE = "banditd"
REPLY_TTL_S = 60
REQUEST_TTL_MS = 86_400_000
PAST_TTL_MS = 90 * 86_400_000
SECURED_MS = 60_000
_PARTS = ("writer", "periods", "pages", "exposed", "foreign", "folded")


@dataclass(frozen=True, slots=True)
class ExperimentKeys:
    """Keys of one experiment; ``root`` ends with a colon."""

    root: str
    head: str
    allocations: str
    audit: str
    requests: str
    requested: str
    lease: str
    status: str
    report: str
    log: str
    writer: str
    periods: str
    pages: str
    exposed: str
    foreign: str
    folded: str
    fed: str
    shipped: str
    fence: str = ""
    """What the head's fields of the ledger begin with."""

    def bucket(self, name: str) -> str:
        """List of chunks of one bucket of foreign ids."""
        return f"{self.foreign}:{name}"

    @property
    def secured(self) -> str:
        """What is written in order to wait for it."""
        return f"{self.root}secured"

    @property
    def past(self) -> str:
        """Audit records of the last experiment of the name that was deleted; none of those that go with it."""
        return f"{self.root}past"

    @property
    def deletion(self) -> str:
        """Which request deleted it; likewise."""
        return f"{self.root}deletion"

    def reply(self, name: bytes) -> str:
        """Where the outcomes of one log entry are put; any bytes make a safe key."""
        return f"{self.root}reply:{name.hex()}"

    def trailing(self) -> ExperimentKeys:
        """Keys of the ledger of the time before the events that are kept: of its own where it has parts of its own."""
        parts = {part: f"{self.root}base:{part}" for part in _PARTS}
        return replace(self, **parts, fence="base_")

    def all(self, buckets: Iterable[str] = (), trailing: Iterable[str] = ()) -> list[str]:
        """Every key that lives as long as the experiment, the head first, then the lists of these buckets of the ledger
        and of the trailing one."""
        base = self.trailing()
        fixed = [
            self.head,
            self.allocations,
            self.audit,
            self.requests,
            self.requested,
            self.lease,
            self.status,
            self.log,
            self.writer,
            self.periods,
            self.pages,
            self.exposed,
            self.foreign,
            self.folded,
            self.report,
            self.fed,
            self.shipped,
            *(getattr(base, part) for part in _PARTS),
        ]
        return fixed + [self.bucket(each) for each in buckets] + [base.bucket(each) for each in trailing]


class Keys:
    """All keys under one namespace."""

    def __init__(self, namespace: str = NAMESPACE) -> None:
        if not namespace or set(namespace) & set("{}*?[]\\ \r\n"):
            raise ValueError(f"{namespace!r} cannot be the namespace of keys; use letters, digits and colons")
        self.namespace = namespace
        registry = f"{namespace}:{{_registry}}"
        self.version = f"{registry}:version"
        self.names = f"{registry}:names"
        self.pending = f"{registry}:pending"
        self.numbers = f"{registry}:numbers"
        self.tokens = f"{registry}:tokens"
        self.beat = f"{registry}:beat"
        self.changes = f"{namespace}:changes"
        self.buried = f"{namespace}:{{_sources}}:fed"
        self.letters = f"{namespace}:{{_sources}}:letters"
        self.places = f"{namespace}:{{_sources}}:places"
        self.sources = f"{namespace}:{{_sources}}:states"

    def of(self, name: str) -> ExperimentKeys:
        """Keys of the experiment of that (checked) name, or of a ledger of it (``bandit.ids``)."""
        if name.endswith("~"):
            return self.of(name[:-1]).trailing()
        root = f"{self.namespace}:{{{name}}}:"
        parts = (
            "head allocations audit requests requested lease status report log writer periods pages exposed "
            "foreign folded fed shipped"
        )
        return ExperimentKeys(root, *(root + part for part in parts.split()))


def request_digest(request_id: str) -> bytes:
    """16 bytes under which a request is remembered; the id may be any text."""
    return hashlib.sha256(request_id.encode("utf-8", "surrogatepass")).digest()[:16]


def bucket_name(key: BucketKey) -> str:
    """``hour.epoch.metric`` in decimal: field of the index and end of the list's key."""
    return f"{key.hour}.{key.epoch}.{key.metric}"


def bucket_key(name: str) -> BucketKey:
    """Inverse of :func:`bucket_name`. Raises ValueError for any other text."""
    hour, epoch, metric = (int(part) for part in name.split("."))
    key = BucketKey(hour, epoch, metric)
    if min(key) < 0 or bucket_name(key) != name:
        raise ValueError(f"{name!r} is not the name of a bucket")
    return key
