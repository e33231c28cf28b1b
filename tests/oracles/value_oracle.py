"""A slow, independent count of remembered values: decisions keep their whole history, sums are made from the end."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from bandit.kernels.values import log_channel
from bandit.ledger import ONE, quantise
from bandit.log import REPORT, RETRACT
from bandit.spec.channels import EARLY_PARTS, Channel, ChannelKind, channels_of
from bandit.spec.model import ExperimentSpec

LOG_ARGUMENTS = dict[int, tuple[int, int, int, int]]


class Told(NamedTuple):
    """One message as it comes out of the log."""

    decision: tuple[int, int]
    metric: int
    op: int
    q: int
    order: int
    event: int
    delay_ms: int


@dataclass
class History:
    """All that was told of one decision and metric, and the delay of the value that counts."""

    reports: list[Told] = field(default_factory=list)
    amendments: list[Told] = field(default_factory=list)
    value: int | None = None
    delay_ms: int = 0

    def now(self, aggregate: str, offset: int) -> int | None:
        """The value that counts; ``offset``: the scaled lowest value, k - 1 of which are missing in a sum of k."""
        ranked = [(told.order, told.op, told.q) for told in self.amendments]
        if aggregate == "last":
            ranked += [(told.order, told.op, told.q) for told in self.reports]
        if ranked:
            _, op, q = max(ranked)
            return None if op == RETRACT else q
        if not self.reports:
            return None
        if aggregate == "sum":
            first_of_each: dict[int, int] = {}
            for told in self.reports:
                first_of_each.setdefault(told.event, told.q)
            return min(max(sum(first_of_each.values()) + (len(first_of_each) - 1) * offset, 0), ONE)
        values = [told.q for told in self.reports]
        return max(values) if aggregate == "max" else values[0]


class ValueOracle:
    """``logs``: arguments of LOG channels by metric (their accuracy is tested elsewhere)."""

    def __init__(self, spec: ExperimentSpec, logs: LOG_ARGUMENTS) -> None:
        self.spec = spec
        self.logs = logs
        self.places: dict[tuple[int, int], tuple[int, int, int, int]] = {}
        self.told: dict[tuple[tuple[int, int], int], History] = defaultdict(History)

    def tell(self, told: Told, place: tuple[int, int, int, int]) -> None:
        """``place``: allocation, cohort, arm, bucket of the decision."""
        metric = self.spec.metrics[told.metric]
        low, high = metric.scale
        offset = round(low * ONE / (high - low))
        self.places[told.decision] = place
        history = self.told[told.decision, told.metric]
        (history.reports if told.op == REPORT else history.amendments).append(told)
        before, history.value = history.value, history.now(metric.aggregate, offset)
        if metric.default_when_silent is not None and before != history.value:
            silent = quantise(metric.default_when_silent, *metric.scale)
            if history.value not in (None, silent) and before in (None, silent):
                history.delay_ms = told.delay_ms

    def sums(self) -> dict[tuple[int, int, int, int], list[int]]:
        """(allocation, cohort, arm, channel) -> [n, s1, s2 high, s2 low] of the values that count now."""
        found: dict[tuple[int, int, int, int], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
        for decision, (allocation, cohort, arm, _) in self.places.items():
            for column, channel in enumerate(channels_of(self.spec)):
                q = self._channel(decision, channel)
                if q is not None:
                    cell = found[allocation, cohort, arm, column]
                    for at, part in enumerate((1, q, q * q >> 30, q * q & (ONE - 1))):
                        cell[at] += part
        return found

    def clusters(self) -> dict[tuple[int, int, int, int], list[int]]:
        """(allocation, arm, metric, bucket) -> [n, s1]."""
        found: dict[tuple[int, int, int, int], list[int]] = defaultdict(lambda: [0, 0])
        for (decision, metric), history in self.told.items():
            allocation, _, arm, bucket = self.places[decision]
            if history.value is not None:
                found[allocation, arm, metric, bucket][0] += 1
                found[allocation, arm, metric, bucket][1] += history.value
        return found

    def _channel(self, decision: tuple[int, int], channel: Channel) -> int | None:
        history = self.told.get((decision, channel.metric))
        if history is None or history.value is None:
            return None
        q, metric = history.value, self.spec.metrics[channel.metric]
        low, high = metric.scale
        match channel.kind:
            case ChannelKind.VALUE:
                return q
            case ChannelKind.LOG:
                found = int(log_channel(q, *self.logs[channel.metric]))
                return None if found < 0 else found
            case ChannelKind.LEVEL:
                return ONE * (q == quantise(metric.levels[channel.place], low, high))
            case ChannelKind.CUBE:
                return (q * q >> 30) * q >> 30
            case ChannelKind.ABOVE:
                return ONE * (q > quantise(channel.threshold, low, high))
            case ChannelKind.EARLY:
                assert metric.default_when_silent is not None
                if q == quantise(metric.default_when_silent, low, high):
                    return None
                edge_ms = EARLY_PARTS[channel.place] * metric.attribution_window * 1000
                return ONE * (history.delay_ms <= edge_ms)
            case ChannelKind.PAIR:
                other = self.told.get((decision, channel.other))
                return None if other is None or other.value is None else q * other.value >> 30
