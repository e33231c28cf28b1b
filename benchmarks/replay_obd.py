"""Replays a file of logged recommendations through a running banditd, and compares every count with the ledger's.

    uv run python benchmarks/replay_obd.py FILE.csv[.gz] [--server HOST:PORT] [--allocator KIND] [--json]

Each logged impression asks for a decision (unit: the row). Where the arm chosen is the item that was logged, the
logged click is reported with the decision's token and the logged time; the other rows bring no reward (replay: Li,
Chu, Langford, Wang 2011, "Unbiased offline evaluation of contextual-bandit-based news article recommendation
algorithms", algorithm 3). That is unbiased where the log is of a uniform policy; otherwise rows are weighted by
1 / logged propensity (self-normalised). The file has the form of the Open Bandit Dataset (Saito, Aihara, Matsutani,
Narita 2020, arXiv 2008.07146): columns timestamp, item_id, position, click, propensity_score.

Exit code 0 when the ledger holds, arm by arm, exactly the decisions, rewards and clicks that were answered here;
1 with the differences otherwise.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from bandit.client import Client
from bandit.client.connection import split_tokens
from bandit.errors import AlreadyExists, InvalidArgument, NotFound
from bandit.spec.model import PPM, ExperimentSpec
from bandit.spec.parse import parse_mapping
from bandit.v1 import experiment_pb2, reward_service_pb2
from benchmarks.service import Banditd, machine

METRIC = "click"
BATCH = 200
ROWS_PER_S = 1000.0
FOLDED_S = 20.0
READY_S = 10.0
PROGRESS_S = 1.0
Z95 = 1.959964
COLUMNS = ("timestamp", "item_id", "click", "propensity_score")


class Row(NamedTuple):
    """One logged impression. ``time_ms`` since 1970; ``propensity`` of the item at its position, in (0, 1]."""

    number: int
    item: int
    click: int
    time_ms: int
    propensity: float


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file, in order. Raises SystemExit with a sentence for a file that is not of this form."""
    with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise SystemExit(f"{path}: no column {', '.join(missing)}; it must have {', '.join(COLUMNS)}")
        for number, fields in enumerate(reader):
            try:
                yield _row(number, fields)
            except (TypeError, ValueError) as error:
                raise SystemExit(f"{path}, line {reader.line_num}: {error}") from None


def _row(number: int, fields: dict[str, str]) -> Row:
    stamp = datetime.fromisoformat(fields["timestamp"])
    stamp = stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)
    row = Row(
        number,
        int(fields["item_id"]),
        int(fields["click"]),
        round(stamp.timestamp() * 1000),
        float(fields["propensity_score"]),
    )
    if row.click not in (0, 1) or not 0 < row.propensity <= 1 or row.item < 0:
        raise ValueError(f"item {row.item}, click {row.click}, propensity {row.propensity} cannot be")
    return row


def replay_spec(name: str, items: Sequence[int], allocator: str) -> ExperimentSpec:
    """An arm for each item, the first one the control; ``fixed`` gives all the same share."""
    names = [arm_name(item) for item in items]
    each, rest = divmod(PPM, len(names))
    weights = {arm: (each + (index < rest)) / PPM for index, arm in enumerate(names)}
    floor = min(0.002, 0.1 / len(names))
    return parse_mapping(
        {
            "experiment": name,
            "hypothesis": "Some items are clicked more than others.",
            "unit": {"kind": "request"},
            "arms": [{"name": arm, "control": index == 0} for index, arm in enumerate(names)],
            "metrics": [
                {
                    "name": METRIC,
                    "kind": "bernoulli",
                    "direction": "maximize",
                    "attribution_window": "10m",
                    "prior": {"mean": 0.01, "strength": 20},
                }
            ],
            "objective": [{"metric": METRIC}],
            "allocator": {"kind": allocator} | ({"weights": weights} if allocator == "fixed" else {}),
            "bounds": {"floor": floor, "control_floor": floor},
        }
    )


def arm_name(item: int) -> str:
    """``item-17``."""
    return f"item-{item}"


@dataclass(slots=True)
class Counts:
    """Own counts, by arm: decisions answered, rewards accepted, clicks among them; and sums over matching rows."""

    decisions: Counter[str] = field(default_factory=Counter)
    rewards: Counter[str] = field(default_factory=Counter)
    clicks: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    matched: int = 0
    weight: float = 0.0
    weight_squared: float = 0.0
    weighted_clicks: float = 0.0
    logged_clicks: int = 0

    def match(self, row: Row, items: int) -> None:
        """A row whose logged item was chosen; weight 1 under a uniform log of ``items`` items."""
        weight = 1.0 / (items * row.propensity)
        self.matched += 1
        self.weight += weight
        self.weight_squared += weight * weight
        self.weighted_clicks += weight * row.click

    def rate(self) -> tuple[float, float, float]:
        """(click rate, low, high): self-normalised, with Wilson's 95 % interval at the effective sample size."""
        if not self.matched:
            return 0.0, 0.0, 1.0
        return (
            self.weighted_clicks / self.weight,
            *wilson(self.weighted_clicks / self.weight, self.effective()),
        )

    def effective(self) -> float:
        """Kish's effective number of matching rows."""
        return self.weight**2 / self.weight_squared if self.matched else 0.0


def wilson(rate: float, n: float) -> tuple[float, float]:
    """95 % interval of a share seen in ``n`` > 0 trials (Wilson 1927)."""
    centre = (rate + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 * math.sqrt(rate * (1 - rate) / n + Z95**2 / (4 * n * n)) / (1 + Z95**2 / n)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def replay(client: Client, spec: ExperimentSpec, rows: Sequence[Row], rows_per_s: float) -> Counts:
    """Stream the rows, at most ``rows_per_s`` (0: as fast as it goes), so that learning has time to act on them."""
    counts, began_s, told_s = Counts(), time.monotonic(), 0.0
    waiting = iter(rows)
    done = 0
    while batch := list(islice(waiting, BATCH)):
        reply = client.decide_batch(spec.experiment, [f"row-{row.number}" for row in batch])
        events: list[tuple[Row, str, bytes]] = []
        for row, index, token in zip(batch, reply.arm_indexes, split_tokens(reply), strict=True):
            arm = reply.arms[index]
            counts.decisions[arm] += bool(token)
            counts.logged_clicks += row.click
            if token and arm == arm_name(row.item):
                counts.match(row, len(spec.arms))
                events.append((row, arm, token))
        _report(client, events, counts)
        done += len(batch)
        passed_s = time.monotonic() - began_s
        if passed_s - told_s >= PROGRESS_S:
            told_s = passed_s
            _say(f"{done:,} of {len(rows):,} rows, {counts.matched:,} matched")
        if rows_per_s:
            time.sleep(max(done / rows_per_s - passed_s, 0.0))
    return counts


def _report(client: Client, events: Sequence[tuple[Row, str, bytes]], counts: Counts) -> None:
    if not events:
        return
    sent = []
    for row, _, token in events:
        event = reward_service_pb2.RewardEvent(token=token, metric=METRIC, value=row.click)
        event.event_time.FromMilliseconds(row.time_ms)
        sent.append(event)
    for (row, arm, _), result in zip(events, client.report_rewards(sent), strict=True):
        if result.outcome == reward_service_pb2.REWARD_OUTCOME_ACCEPTED:
            counts.rewards[arm] += 1
            counts.clicks[arm] += row.click
        else:
            counts.refused[result.reason] += 1


def differences(counts: Counts, status: experiment_pb2.ExperimentStatus) -> list[str]:
    """Sentences, one for each arm and count that is not exactly ours."""
    found = []
    for arm in status.arms:
        metric = next(each for each in arm.metrics if each.metric == METRIC)
        for what, own, ledger in (
            ("decisions", counts.decisions[arm.arm], arm.exposures),
            ("rewards", counts.rewards[arm.arm], metric.n),
            ("clicks", counts.clicks[arm.arm], round(metric.mean * metric.n)),
        ):
            if own != ledger:
                found.append(f"{arm.arm}: {own} {what} answered, {ledger} in the ledger")
    found += [f"{count} rewards refused: {reason}" for reason, count in sorted(counts.refused.items())]
    if status.exposures_lost:
        found.append(f"the service says that {status.exposures_lost} decisions were lost")
    return found


def settled(client: Client, name: str, counts: Counts) -> tuple[experiment_pb2.ExperimentStatus, list[str]]:
    """The status when the log is folded, and what still differs then."""
    deadline = time.monotonic() + FOLDED_S
    while True:
        status = client.status(name)
        apart = differences(counts, status)
        if not apart or time.monotonic() > deadline:
            return status, apart
        time.sleep(0.1)


def created(client: Client, base: str, items: Sequence[int], allocator: str) -> ExperimentSpec:
    """A started experiment under a name that is free, known to the server that answers us."""
    for number in range(1, 1000):
        spec = replay_spec(base if number == 1 else f"{base}-{number}", items, allocator)
        try:
            client.create(spec)
        except AlreadyExists:
            continue
        client.start(spec.experiment)
        deadline = time.monotonic() + READY_S
        while True:
            try:
                client.decide_batch(spec.experiment, [])
            except NotFound:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            except InvalidArgument:
                return spec  # an empty batch is refused, by a server that knows the experiment
    raise SystemExit(f"the names {base} to {base}-999 are all taken; delete some")


def report(counts: Counts, spec: ExperimentSpec, rows: Sequence[Row], allocator: str) -> dict[str, object]:
    """What the replay found."""
    rate, low, high = counts.rate()
    return {
        "rows": len(rows),
        "arms": len(spec.arms),
        "allocator": allocator,
        "experiment": spec.experiment,
        "decisions": counts.decisions.total(),
        "matched": counts.matched,
        "matched_effective": round(counts.effective(), 1),
        "rewards_accepted": counts.rewards.total(),
        "clicks": counts.clicks.total(),
        "click_rate": rate,
        "click_rate_low": low,
        "click_rate_high": high,
        "logged_click_rate": counts.logged_clicks / len(rows),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay one file. Returns the exit code."""
    options = _options(arguments)
    rows = list(read_rows(options.file))
    if not rows:
        raise SystemExit(f"{options.file}: no rows")
    items = sorted({row.item for row in rows})
    began_s = time.monotonic()
    with ExitStack() as stack:
        target = options.server
        if target is None:
            _say("starting a banditd of our own")
            target = stack.enter_context(Banditd()).target
        client = stack.enter_context(Client(target, actor="replay"))
        spec = created(client, "replay", items, options.allocator)
        replay_s = time.monotonic()
        counts = replay(client, spec, rows, options.rows_per_second)
        status, apart = settled(client, spec.experiment, counts)
    found = report(counts, spec, rows, options.allocator) | {
        "file": options.file.name,
        "allocations": status.allocation.number,
        "top_arms": {
            arm.arm: arm.share_ppm for arm in sorted(status.arms, key=lambda arm: -arm.share_ppm)[:3]
        },
        "seconds": round(time.monotonic() - replay_s, 2),
        "seconds_with_start": round(time.monotonic() - began_s, 2),
        "differences": apart,
        "machine": machine("grpcio", "protobuf", "numpy"),
    }
    sys.stdout.write(json.dumps(found, indent=2) + "\n" if options.json else _text(found))
    for sentence in apart:
        _say(sentence)
    return 1 if apart else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Replays logged recommendations through banditd.")
    parser.add_argument("file", type=Path, help="CSV, or gzip of it, in the form of the Open Bandit Dataset")
    parser.add_argument("--server", help="HOST:PORT of a running banditd; left out: starts its own")
    parser.add_argument("--allocator", choices=("thompson", "kl_ucb", "fixed"), default="thompson")
    parser.add_argument(
        "--rows-per-second", type=float, default=ROWS_PER_S, help="0: as fast as it goes; less time to learn"
    )
    parser.add_argument("--json", action="store_true", help="a JSON document in place of text")
    return parser.parse_args(arguments)


def _text(found: dict[str, object]) -> str:
    verdict = "differs from" if found["differences"] else "equals"
    return (
        f"{found['file']}: {found['rows']:,} rows, {found['arms']} arms, {found['allocator']}, "
        f"{found['allocations']} allocations, {found['seconds']} s\n"
        f"matched {found['matched']:,} rows, {found['rewards_accepted']:,} rewards accepted, {found['clicks']} clicks\n"
        f"click rate {found['click_rate']:.4%}, 95 % interval {found['click_rate_low']:.4%} to "
        f"{found['click_rate_high']:.4%}; of the logged policy {found['logged_click_rate']:.4%}\n"
        f"the ledger {verdict} our own counts of decisions, rewards and clicks, arm by arm\n"
    )


def _say(line: str) -> None:
    sys.stderr.write(f"replay: {line}\n")


if __name__ == "__main__":
    sys.exit(main())
