"""Values of uniform shares from the log of another policy, beside what uniform shares truly brought.

    uv run python benchmarks/offpolicy_obd.py LOGGED.csv[.gz] [UNIFORM.csv[.gz]]

LOGGED is a file of the Open Bandit Dataset (Saito, Aihara, Matsutani & Narita 2020, arXiv 2008.07146; CC BY 4.0), such
as ``bts/women/women.csv``; UNIFORM the file of the same campaign under the uniform policy, for the truth. Measured on
the samples of 10,000 rows that come with that dataset:

    campaign   ips      snips    dr        switch_dr   mean weight   effective n   truth
    men        .00301   .00319   .00340    .00549      .943          656           .0046
    women      .00744   .00237   -.00238   .00421      3.13          2             .0046

The women's log has propensities of 1e-6: without floors one decision is two thirds of all weight, and every estimator
but switch_dr is off by half of the value. That is why allocations here have floors.

Behind them, what specs would have been worth (``bandit.evaluate``, a look an hour): by weights on LOGGED, and on
UNIFORM by weights and by replay. Men:

    spec       weights, LOGGED   weights, UNIFORM   replay
    fixed      .0030 +- .0008    .0046 +- .0007     no click in 276 accepted
    thompson   .0039 +- .0016    .0048 +- .0012     no click in 275 accepted
    kl_ucb     .0011 +- .0007    .0040 +- .0014     no click in 295 accepted

With 46 clicks in a week nothing is learned that is worth more than even shares, and replays keep too little of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from bandit.ctl.evaluate import read_log
from bandit.evaluate.outcome import Evaluation
from bandit.evaluate.rejection import by_replay
from bandit.evaluate.weights import by_weights
from bandit.inference.offpolicy import Estimator, Log, anytime, value
from benchmarks.replay_obd import read_rows, replay_spec

ESTIMATORS: tuple[Estimator, ...] = ("ips", "snips", "dr", "switch_dr")
TAU = 10.0
ALLOCATORS = ("fixed", "thompson", "kl_ucb")
EVERY_S = 3600.0


def main() -> None:
    """Print a line per estimator, the interval, and the warnings."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("logged", type=Path)
    parser.add_argument("uniform", type=Path, nargs="?")
    options = parser.parse_args()
    rows = list(read_rows(options.logged))
    items = sorted({row.item for row in rows})
    place = {item: index for index, item in enumerate(items)}
    clicks = np.array([row.click for row in rows], np.float64)
    log = Log(
        arm=np.array([place[row.item] for row in rows], np.int64),
        propensity=np.array([row.propensity for row in rows]),
        reward=clicks,
        target=np.full(len(items), 1.0 / len(items)),
    )
    model = np.full(len(items), clicks.mean())
    print(
        f"{len(rows):,} decisions, {len(items)} arms, {clicks.sum():.0f} clicks, logged value {clicks.mean():.5f}"
    )
    for estimator in ESTIMATORS:
        found = value(log, estimator, model=model, tau=TAU)
        print(f"{estimator:<10} {found.estimate:9.5f}  standard error {found.se:.5f}")
    low, high = anytime(log)
    print(f"95 % interval that holds at every look: {low:.5f} to {high:.5f}")
    print(f"mean weight {found.mean_weight:.3f}, effective sample size {found.effective:.0f}")
    for warning in found.warnings:
        print(f"warning: {warning}")
    if options.uniform:
        truth = np.array([row.click for row in read_rows(options.uniform)])
        print(f"truth {truth.mean():.5f}, standard error {truth.std() / np.sqrt(len(truth)):.5f}")
    for allocator in ALLOCATORS:
        spec = replay_spec("items", items, allocator)
        show(f"{allocator} by weights", by_weights(read_log(str(options.logged), spec), EVERY_S))
        if options.uniform:
            even = read_log(str(options.uniform), spec)
            show(f"{allocator} by weights on the uniform log", by_weights(even, EVERY_S))
            show(f"{allocator} by replay on the uniform log", by_replay(even, EVERY_S))


def show(what: str, found: Evaluation) -> None:
    """A line of each estimate."""
    each = ", ".join(f"{e.estimator} {e.value.value:.5f} +- {e.value.se:.5f}" for e in found.estimates)
    print(f"{what}: {each}" + ("" if found.accepted is None else f", {found.accepted} accepted"))


if __name__ == "__main__":
    main()
