"""When the best arm is told, and what estimates are worth after shares have moved; each line goes to evidence.jsonl.

    nice -n 19 uv run python -m benchmarks.stats.identify identify estimates

Compiled loops around the shipped kernels, and the report's terms; seeded; --runs N.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from bandit.inference.terms import PHI, PHI2, A, N, S, V
from bandit.kernels.best_arm import BETA, compare
from bandit.kernels.jit import kernel
from bandit.kernels.mixing import top_two
from bandit.kernels.track_and_stop import BERNOULLI, evidence, threshold
from bandit.ledger import FloatArray
from benchmarks.stats.evidence import Line, Table, work
from tests.adaptive import bandit_runs, terms_so_far

EVEN, TOP_TWO = 0, 1
STEP = 10


@kernel
def identified(
    rule: int, rates: FloatArray, delta: float, runs: int, chance: np.random.Generator
) -> FloatArray:
    """[runs, 2]: requests until the likelihood ratio stops, and was the best arm named? Shares move every STEP."""
    arms, best = rates.size, rates.argmax()
    out, sure = np.zeros((runs, 2)), np.ones(arms)
    p, loss, means = np.empty(arms), np.empty(arms), np.empty(arms)
    for run in range(runs):
        n, s, params = np.zeros(arms), np.zeros(arms), np.ones((arms, 2))
        t, w = 0, np.full(arms, 1.0 / arms)
        while t < 1_000_000:
            if t % STEP == 0 and rule == TOP_TWO:
                for k in range(arms):
                    params[k, 0], params[k, 1] = 1.0 + s[k], 1.0 + n[k] - s[k]
                compare(BETA, params.copy(), sure, False, p, loss)
                top_two(p.copy(), 0.5, w)
            u, chosen = chance.random(), arms - 1
            for k in range(arms - 1):
                u -= w[k]
                if u < 0.0:
                    chosen = k
                    break
            n[chosen] += 1.0
            s[chosen] += 1.0 if chance.random() < rates[chosen] else 0.0
            t += 1
            for k in range(arms):
                means[k] = s[k] / n[k] if n[k] > 0.0 else 0.5
            if n.min() > 0.0 and evidence(BERNOULLI, means, n, 1.0) > threshold(float(t), delta):
                break
        out[run, 0] = t
        out[run, 1] = 1.0 if means.argmax() == best else 0.0
    return out


def identify(runs: int, chance: np.random.Generator) -> Iterator[Line]:
    """Requests until the best arm is told with delta = 10 %."""
    published = {
        ((0.5, 0.45, 0.43, 0.4), TOP_TWO): (4097.0, 143.0),
        ((0.5, 0.45, 0.43, 0.4), EVEN): (7151.0, 272.0),
        ((0.3, 0.21, 0.2, 0.19, 0.18), TOP_TWO): (1637.0, 45.0),
        ((0.3, 0.21, 0.2, 0.19, 0.18), EVEN): (2268.0, 72.0),
    }
    for (rates, rule), figure in published.items():
        found = identified(rule, np.array(rates), 0.1, runs, chance)
        yield {
            "line": f"{rates}, {'top two' if rule == TOP_TWO else 'equal shares'}",
            "runs": runs,
            "stops": round(float(found[:, 0].mean()), 1),
            "se": round(float(found[:, 0].std(ddof=1) / math.sqrt(runs)), 1),
            "correct": round(float(found[:, 1].mean()), 4),
            "published": figure,
        }


def estimates(runs: int, chance: np.random.Generator) -> Iterator[Line]:
    """Two arms, 50 batches of 200, Thompson: bias and 95 % intervals of one look, after the last batch."""
    seed = int(chance.integers(1 << 31))
    for control, other in ((0.5, 0.5), (0.1, 0.1), (0.1, 0.11)):
        for floor in (0.01, 0.05, 0.1):
            made = bandit_runs(seed, runs, [control, other], floor=floor)
            n, s1 = made.n.sum(axis=1), made.s1.sum(axis=1)
            rate = s1 / np.maximum(n, 1.0)
            truth, last = other - control, terms_so_far(made)[:, -1]
            plain = np.sqrt((rate * (1.0 - rate) / np.maximum(n, 1.0)).sum(axis=1))
            aipw, aipw_se = last[:, PHI] / last[:, N], np.sqrt(last[:, PHI2]) / last[:, N]
            ours, ours_se = last[:, S] / last[:, A], np.sqrt(last[:, V]) / last[:, A]
            yield {
                "line": f"{control:g} and {other:g}, floor {floor:g}",
                "runs": runs,
                "bias_mean_arm0": _mean(rate[:, 0] - control),
                "bias_less_sampled_arm": _mean(
                    np.where(n[:, 0] < n[:, 1], rate[:, 0] - control, rate[:, 1] - other)
                ),
                "naive_cov95": _within(rate[:, 1] - rate[:, 0] - truth, plain),
                "aipw_bias": _mean(aipw - truth),
                "aipw_cov95": _within(aipw - truth, aipw_se),
                "overlap_bias": _mean(ours - truth),
                "overlap_cov95": _within(ours - truth, ours_se),
                "se_naive": round(float(plain.mean()), 5),
                "se_aipw": round(float(aipw_se.mean()), 5),
                "se_overlap": round(float(ours_se.mean()), 5),
            }


def _mean(values: FloatArray) -> tuple[float, float]:
    return round(float(values.mean()), 5), round(float(values.std() / math.sqrt(values.size)), 5)


def _within(off: FloatArray, se: FloatArray) -> float:
    return round(float((np.abs(off) <= 1.96 * se).mean()), 4)


TABLES: dict[str, tuple[Table, int]] = {"identify": (identify, 300), "estimates": (estimates, 4000)}


if __name__ == "__main__":
    work(TABLES, __doc__)
