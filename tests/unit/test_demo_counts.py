"""The demo's own book against a ledger's status, and what its last line may say."""

from __future__ import annotations

import pytest

from bandit.v1 import experiment_pb2 as pb
from server.demo.__main__ import main
from server.demo.play import End
from server.demo.tally import Tally


def status(exposures: dict[str, int], rewards: dict[tuple[str, str], int]) -> pb.ExperimentStatus:
    found = pb.ExperimentStatus()
    for arm, count in exposures.items():
        of = found.arms.add(arm=arm, exposures=count)
        for (name, metric), n in rewards.items():
            if name == arm:
                of.metrics.add(metric=metric, n=n)
    return found


def tally() -> Tally:
    book = Tally()
    for arm, count in (("a", 3), ("b", 2)):
        for _ in range(count):
            book.decided(arm, counted=True)
    book.decided("a", counted=False)
    book.rewards["a", "m"], book.rewards["b", "m"] = 3, 1
    return book


SAME = ({"a": 3, "b": 2}, {("a", "m"): 3, ("b", "m"): 1})


def test_equal_counts_lose_nothing() -> None:
    assert tally().lost(status(*SAME)) == 0
    assert tally().totals() == (5, 4)


@pytest.mark.parametrize(
    ("exposures", "rewards", "lost"),
    [
        ({"a": 2, "b": 2}, SAME[1], 1),
        ({"a": 4, "b": 2}, SAME[1], 1),
        # The same total, but of another arm: twice wrong.
        ({"a": 4, "b": 1}, SAME[1], 2),
        (SAME[0], {("a", "m"): 2, ("b", "m"): 2}, 2),
        (SAME[0], {("a", "m"): 3, ("b", "m"): 1, ("b", "other"): 4}, 4),
        (SAME[0], {("a", "m"): 3}, 1),
        ({}, {}, 9),
    ],
)
def test_each_difference_of_an_arm_or_a_metric_is_lost(
    exposures: dict[str, int], rewards: dict[tuple[str, str], int], lost: int
) -> None:
    assert tally().lost(status(exposures, rewards)) == lost


def test_what_nobody_can_know_excuses_an_excess_and_nothing_else() -> None:
    book = tally()
    book.unsure_decisions = 2
    book.unsure_rewards["a", "m"] = 1
    assert book.lost(status({"a": 4, "b": 3}, {("a", "m"): 4, ("b", "m"): 1})) == 0
    assert book.lost(status({"a": 5, "b": 3}, {("a", "m"): 4, ("b", "m"): 1})) == 1
    assert book.lost(status({"a": 4, "b": 3}, {("a", "m"): 3, ("b", "m"): 2})) == 1
    assert book.lost(status({"a": 2, "b": 2}, SAME[1])) == 1


GOOD = End("tuned", 850_000, "fast", 9000, 33_000, 0)


def test_the_last_line_is_for_scripts() -> None:
    assert GOOD.line() == (
        "demo: winner=tuned share_ppm=850000 rolled_back=fast decisions=9000 rewards=33000 lost=0"
    )
    assert GOOD.objection() == ""


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (GOOD._replace(lost=3), "differs from the world's own counts by 3"),
        (GOOD._replace(winner="baseline"), "baseline has the greatest share; it must be tuned"),
        (GOOD._replace(rolled_back="none"), "rolled back: none; it must be fast"),
        (GOOD._replace(rolled_back="tuned,fast"), "rolled back: tuned,fast"),
        (GOOD._replace(rewards=0), "0 rewards were counted"),
        (GOOD._replace(decisions=0), "0 decisions"),
    ],
)
def test_facts_that_are_not_so_are_said(end: End, said: str) -> None:
    assert said in end.objection()


@pytest.mark.parametrize("seconds", ["3", "-1", "nan", "inf", "soon"])
def test_a_demo_too_short_to_show_anything_is_refused(
    seconds: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["--exit", f"--seconds={seconds}"])
    assert refused.value.code == 2
    assert "--seconds" in capsys.readouterr().err
