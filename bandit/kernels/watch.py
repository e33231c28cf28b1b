"""Every guardrail as sums of one arm, to which compiled code adds period by period; ``weigh`` says what they mean.

``add(code, params, sums, row)`` adds one period: ``code`` is one of the constants here, ``params`` [PARAMS] the frozen
numbers of the guardrail, ``sums`` [COLUMNS] what it keeps of an arm, zeros at first, and ``row`` what the period
brought, its columns named below. Periods are added in the order of their numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bandit.kernels.jit import kernel
from bandit.kernels.overlap import (
    SCORES,
    TOTAL,
    TOTAL_SAFE,
    VARIANCE,
    VARIANCE_SAFE,
    add_scores,
)
from bandit.kernels.signals import (
    STATES,
    TILTS,
    add_bucket,
    add_detector,
    add_newest,
    add_silence,
    add_tilts,
)

COLUMNS = 96
PARAMS = 4

(
    RATE,
    EVENTS,
    HARM,
    HARM_ASYMPTOTIC,
    RATIO_HARM,
    QUANTILE_HARM,
    DETECTOR,
    BREAKER,
    SAMPLE_RATIO,
    SILENCE,
    RESPONSE,
    DRIFT,
) = range(12)

# Columns of a row: what a period brought to the arm and (_0) to the control. Badness is up, in [0, 1] unless said.
(
    NUMBER,  # of the period's allocation
    SHARE,
    SHARE_0,
    ASSIGNED,  # decisions
    ASSIGNED_0,
    ASSIGNED_ALL,  # of all arms
    ARRIVED,  # rewards alone
    ARRIVED_0,
    COUNT,  # outcomes: rewards, and silence where it has a value
    BAD,  # sum of badness; of events in EVENTS, of the numerator in RATIO_HARM
    SQUARE,  # sum of its square
    CUBE,  # sum of its cube; of numerator times denominator in RATIO_HARM
    BELOW,  # sum of the denominator in RATIO_HARM
    BELOW_SQUARE,
    TOP,  # TOP / BOTTOM is what is shown, in the metric's unit
    BOTTOM,
    COUNT_0,
    BAD_0,
    SQUARE_0,
    CUBE_0,
    BELOW_0,
    BELOW_SQUARE_0,
    TOP_0,
    BOTTOM_0,
    CENTRE,  # the control's badness, fixed before the period; its ratio in RATIO_HARM, 0 when unknown
    SHOWN_CENTRE,  # the same in the unit of TOP / BOTTOM
    EDGES,  # QUANTILE_HARM: from here on outcomes above each of J edges, of the arm, then of the control
) = range(27)

# Sums of a comparison with the control: what is shown, then a block of scores.
SHOWN_N, SHOWN_N_0, SHOWN_TOP, SHOWN_BOTTOM, SHOWN_EXPECTED, BLOCK = range(6)
AFTER = BLOCK + SCORES
# HARM_ASYMPTOTIC: n, s1, s2, s3 of arm and control.
MOMENTS = AFTER
# DETECTOR: states, what Page's sum is of the run that is shown, all outcomes of arm and control.
PAGE, EVERY, EVERY_0 = AFTER + STATES, AFTER + STATES + 1, AFTER + STATES + 2
# RESPONSE: a second block for the inverse margin, and the control's sums so far.
SECOND = AFTER
CONTROL_TOP, CONTROL_BOTTOM = SECOND + SCORES, SECOND + SCORES + 1
# QUANTILE_HARM: the control's outcomes so far, and those above each edge.
CONTROL_N, CONTROL_ABOVE = AFTER, AFTER + 1
MOST_EDGES = COLUMNS - CONTROL_ABOVE
LEAST_ABOVE = 10.0
MEMORY = 400.0


@kernel
def add(code: int, params: NDArray[np.float64], sums: NDArray[np.float64], row: NDArray[np.float64]) -> None:
    """Add the row of one period to the sums of an arm."""
    if code in (RATE, EVENTS):
        sums[0] += row[COUNT]
        sums[1] += row[BAD]
        sums[2] += row[ARRIVED]
    elif code == BREAKER:
        add_newest(sums, row[NUMBER], row[COUNT], row[BAD])
    elif code == SAMPLE_RATIO:
        add_tilts(sums[: TILTS.size], row[ASSIGNED], row[ASSIGNED_ALL], row[SHARE])
        sums[TILTS.size] += row[ASSIGNED]
        sums[TILTS.size + 1] += row[SHARE] * row[ASSIGNED_ALL]
        sums[TILTS.size + 2] += row[ASSIGNED_ALL]
    elif code == SILENCE:
        add_silence(sums, row[ASSIGNED], row[ARRIVED])
    elif code == DRIFT:
        add_bucket(sums, row[COUNT], row[BAD], row[SQUARE])
    elif row[SHARE] > 0.0 and row[SHARE_0] > 0.0:
        _compare(code, params, sums, row)


@kernel
def add_rows(
    code: int, params: NDArray[np.float64], sums: NDArray[np.float64], rows: NDArray[np.float64]
) -> None:
    """Add rows [E, R], oldest first."""
    for e in range(rows.shape[0]):
        add(code, params, sums, rows[e])


@kernel
def _compare(
    code: int, params: NDArray[np.float64], sums: NDArray[np.float64], row: NDArray[np.float64]
) -> None:
    """Add a period in which arm and control both had traffic."""
    block = sums[BLOCK:AFTER]
    if code == RATIO_HARM:
        _add_ratio(params[0], sums, row)
    elif code == QUANTILE_HARM:
        _add_quantile(params, sums, row)
    elif code == RESPONSE:
        centre = sums[CONTROL_TOP] / sums[CONTROL_BOTTOM] if sums[CONTROL_BOTTOM] > 0.0 else 0.5
        for at, r in ((BLOCK, params[0]), (SECOND, 1.0 / params[0])):
            add_scores(
                sums[at : at + SCORES],
                row[COUNT], row[BAD], row[SQUARE], row[COUNT_0], row[BAD_0], row[SQUARE_0], centre, r,
            )  # fmt: skip
        sums[CONTROL_TOP] += row[BAD_0]
        sums[CONTROL_BOTTOM] += row[COUNT_0]
        _show(sums, row, row[COUNT], row[COUNT_0])
    else:
        step = np.zeros(SCORES)
        add_scores(
            step,
            row[COUNT],
            row[BAD],
            row[SQUARE],
            row[COUNT_0],
            row[BAD_0],
            row[SQUARE_0],
            row[CENTRE],
            params[0],
        )
        if code == HARM_ASYMPTOTIC:
            _add_moments(sums, row, params[0])
        else:
            block += step
        if code == DETECTOR:
            swap = params[1] > 0.0
            add_detector(sums[AFTER : AFTER + STATES], step, swap)
            page = sums[PAGE] + (step[TOTAL_SAFE] if swap else step[TOTAL])
            sums[PAGE] = max(page, 0.0)
            sums[EVERY] += row[COUNT]
            sums[EVERY_0] += row[COUNT_0]
            if page <= 0.0:
                sums[:BLOCK] = 0.0
                return
        _show(sums, row, row[COUNT], row[COUNT_0])


@kernel
def _show(sums: NDArray[np.float64], row: NDArray[np.float64], n: float, n_0: float) -> None:
    """What is shown of the arm, and what the control had in the same periods at the arm's traffic."""
    sums[SHOWN_N] += n
    sums[SHOWN_N_0] += n_0
    sums[SHOWN_TOP] += row[TOP]
    sums[SHOWN_BOTTOM] += row[BOTTOM]
    level = row[TOP_0] / row[BOTTOM_0] if row[BOTTOM_0] > 0.0 else row[SHOWN_CENTRE]
    sums[SHOWN_EXPECTED] += row[BOTTOM] * level


@kernel
def _add_moments(sums: NDArray[np.float64], row: NDArray[np.float64], r: float) -> None:
    """Scores that need not be bounded from below, so that none shrink to fit, and the moments for skewness."""
    n1, n0, m = row[COUNT], row[COUNT_0], row[CENTRE]
    v = n1 / max(n1 + n0, 1.0)
    total = (1.0 - v) * (row[BAD] / r - n1 * m) - v * (row[BAD_0] - n0 * m)
    spread1 = max(row[SQUARE] / (r * r) - 2.0 * m * row[BAD] / r + n1 * m * m, 0.0)
    spread0 = max(row[SQUARE_0] - 2.0 * m * row[BAD_0] + n0 * m * m, 0.0)
    variance = (1.0 - v) ** 2 * spread1 + v**2 * spread0
    sums[BLOCK + TOTAL] += total
    sums[BLOCK + VARIANCE] += variance
    sums[BLOCK + TOTAL_SAFE] -= total
    sums[BLOCK + VARIANCE_SAFE] += variance
    for i in range(4):
        sums[MOMENTS + i] += row[COUNT + i]
        sums[MOMENTS + 4 + i] += row[COUNT_0 + i]


@kernel
def _add_ratio(r: float, sums: NDArray[np.float64], row: NDArray[np.float64]) -> None:
    """Linearised N / r - theta D of the arm against N - theta D of the control, shifted and scaled into [0, 1].

    theta is the row's CENTRE, the control's ratio as it was known before the period; 0 when it was not.
    """
    theta = row[CENTRE]
    if theta <= 0.0:
        return
    whole = theta + max(1.0, 1.0 / r)
    n1, n0 = row[COUNT], row[COUNT_0]
    bad1 = (row[BAD] / r - theta * row[BELOW] + n1 * theta) / whole
    bad0 = (row[BAD_0] - theta * row[BELOW_0] + n0 * theta) / whole
    square1 = _linear_square(
        row[BAD] / r, row[SQUARE] / (r * r), row[CUBE] / r, row[BELOW], row[BELOW_SQUARE], n1, theta
    )
    square0 = _linear_square(
        row[BAD_0], row[SQUARE_0], row[CUBE_0], row[BELOW_0], row[BELOW_SQUARE_0], n0, theta
    )
    square1 /= whole * whole
    square0 /= whole * whole
    add_scores(sums[BLOCK:AFTER], n1, bad1, square1, n0, bad0, square0, theta / whole, 1.0)
    _show(sums, row, n1, n0)


@kernel
def _linear_square(
    top: float, top_square: float, product: float, below: float, below_square: float, n: float, theta: float
) -> float:
    """Sum of (N - theta D + theta)^2 from sums of N, N^2, N D, D, D^2."""
    return top_square + theta * theta * (below_square + n - 2.0 * below) + 2.0 * theta * (top - product)


@kernel
def _add_quantile(params: NDArray[np.float64], sums: NDArray[np.float64], row: NDArray[np.float64]) -> None:
    """Outcomes of the arm above r tau against those of the control above tau, an edge at the control's quantile so far.

    ``params``: tolerated share above the quantile, number of edges, edges from tau to r tau.
    """
    share, edges, steps = params[0], int(params[1]), int(params[2])
    above_0 = EDGES + edges
    if sums[CONTROL_N] * share >= LEAST_ABOVE:
        tau = 0
        while tau < edges - 1 - steps and sums[CONTROL_ABOVE + tau] > share * sums[CONTROL_N]:
            tau += 1
        n1, n0 = row[COUNT], row[COUNT_0]
        bad1, bad0 = row[EDGES + tau + steps], row[above_0 + tau]
        centre = sums[CONTROL_ABOVE + tau] / sums[CONTROL_N]
        add_scores(sums[BLOCK:AFTER], n1, bad1, bad1, n0, bad0, bad0, centre, 1.0)
        sums[SHOWN_N] += n1
        sums[SHOWN_N_0] += n0
        sums[SHOWN_TOP] += bad1
        sums[SHOWN_BOTTOM] += n1
        sums[SHOWN_EXPECTED] += n1 * (bad0 / n0 if n0 > 0.0 else centre)
    sums[CONTROL_N] += row[COUNT_0]
    for j in range(edges):
        sums[CONTROL_ABOVE + j] += row[above_0 + j]
    if sums[CONTROL_N] * share > MEMORY:
        sums[CONTROL_N : CONTROL_ABOVE + edges] *= 0.5


def warm() -> None:
    """Compile for the types that the judges use."""
    params, row, sums = np.array([0.5, 0.0, 0.0, 0.0]), np.zeros(EDGES), np.zeros(COLUMNS)
    add(RATE, params, sums, row)
    add_rows(RATE, params, sums, row.reshape(1, EDGES))
