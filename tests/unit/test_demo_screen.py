"""What the demo tells of statuses as they come, and how it looks in terminals of two sizes."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bandit.v1 import experiment_pb2 as pb
from server.demo.happenings import Event, Happenings
from server.demo.screen import Moment, bar, event_line, picture, second_line

SAID = "unsafe-burst: fast unsafe 0.080 of 200 exceeds 0.010 (ln 1/tail 14.9 >= 13.8)"


def status(
    shares: dict[str, int], *, rolled_back: str = "", outcome: int = pb.OUTCOME_INCONCLUSIVE
) -> pb.ExperimentStatus:
    found = pb.ExperimentStatus(name="experiments/demo", exposures=900)
    found.allocation.number = 7
    for name, share in shares.items():
        arm = found.arms.add(arm=name, share_ppm=share, control=name == "baseline", p_best=0.4, exposures=300)
        arm.metrics.add(
            metric="satisfied", n=200, posterior_mean=0.7, posterior_low=0.65, posterior_high=0.75
        )
        arm.metrics.add(
            metric="cost_usd", n=300, posterior_mean=0.009, posterior_low=0.0089, posterior_high=0.0091
        )
        arm.metrics.add(metric="unsafe", n=0)
        if name == rolled_back:
            arm.state.rollback.actor, arm.state.rollback.reason = "guardrail/unsafe-burst", SAID
        elif name != "baseline":
            found.verdicts.add(
                guardrail="unsafe-burst", arm=name, outcome=outcome, log_e=6.9, log_threshold=13.8,
                observed=0.02, reference=0.01, n=200, message=SAID.replace("fast", name),
            )  # fmt: skip
    return found


EVEN = {"baseline": 334_000, "tuned": 333_000, "fast": 333_000}
AFTER = {"baseline": 300_000, "tuned": 700_000, "fast": 0}


def told(happenings: Happenings, seen: pb.ExperimentStatus, at_s: float) -> list[tuple[str, str]]:
    return [(event.kind, event.text) for event in happenings.see(seen, at_s)]


def test_nothing_is_told_twice() -> None:
    happenings = Happenings()
    assert [kind for kind, _ in told(happenings, status(EVEN), 0.0)] == ["shares"]
    assert told(happenings, status(EVEN), 0.3) == []


def test_shares_are_told_when_they_moved_and_not_too_often() -> None:
    happenings = Happenings()
    told(happenings, status(EVEN), 0.0)
    near = EVEN | {"baseline": 300_000, "tuned": 367_000}
    assert told(happenings, status(near), 5.0) == []
    far = EVEN | {"baseline": 267_000, "tuned": 400_000}
    assert told(happenings, status(far), 5.3) == [
        ("shares", "baseline 26.7 %, tuned 40.0 %, fast 33.3 % (allocation 7)")
    ]
    assert told(happenings, status(EVEN), 6.0) == []
    assert [kind for kind, _ in told(happenings, status(EVEN), 7.4)] == ["shares"]


def test_a_rollback_is_told_with_its_failure_even_when_the_verdict_came_between_two_statuses() -> None:
    happenings = Happenings()
    told(happenings, status(EVEN), 0.0)
    assert told(happenings, status(AFTER, rolled_back="fast"), 1.0) == [
        ("verdict", f"FAIL {SAID}"),
        ("rollback", "fast gets no more traffic, by guardrail/unsafe-burst"),
        ("shares", "baseline 30.0 %, tuned 70.0 %, fast 0.0 % (allocation 7)"),
    ]
    assert told(happenings, status(AFTER, rolled_back="fast"), 1.3) == []


def test_a_failure_that_was_seen_is_not_told_again_with_the_rollback() -> None:
    happenings = Happenings()
    told(happenings, status(EVEN), 0.0)
    assert [kind for kind, _ in told(happenings, status(EVEN, outcome=pb.OUTCOME_FAIL), 0.5)] == [
        "verdict",
        "verdict",
    ]
    assert [kind for kind, _ in told(happenings, status(AFTER, rolled_back="fast"), 1.0)] == [
        "rollback",
        "shares",
    ]


def test_the_verdict_of_a_stopped_arm_stays_to_be_seen() -> None:
    happenings = Happenings()
    told(happenings, status(EVEN), 0.0)
    told(happenings, status(AFTER, rolled_back="fast"), 1.0)
    happenings.fail(pb.Verdict(guardrail="unsafe-burst", arm="fast", outcome=pb.OUTCOME_FAIL, log_e=14.9))
    told(happenings, status(AFTER, rolled_back="fast"), 1.3)
    assert happenings.verdicts["unsafe-burst", "fast"].outcome == pb.OUTCOME_FAIL


def test_holds_and_warnings_are_told_once() -> None:
    happenings = Happenings()
    seen = status(EVEN)
    seen.arms[1].state.hold_ppm = 333_000
    seen.warnings.append("no learner is alive")
    found = told(happenings, seen, 0.0)
    assert ("hold", "tuned held at 33.3 %") in found
    assert ("warning", "no learner is alive") in found
    assert told(happenings, seen, 9.0) == []


def drawn(moment: Moment, width: int, height: int) -> list[str]:
    file = io.StringIO()
    console = Console(
        file=file, width=width, height=height, force_terminal=True, color_system=None, legacy_windows=False
    )
    console.print(picture(moment, width, height))
    return file.getvalue().splitlines()


def moment() -> Moment:
    happenings = Happenings()
    events = [event for at in range(12) for event in Happenings().see(status(EVEN), float(at))]
    events += happenings.see(status(EVEN), 11.0)
    events += happenings.see(status(AFTER, rolled_back="fast"), 12.3)
    happenings.fail(
        pb.Verdict(
            guardrail="unsafe-burst", arm="fast", outcome=pb.OUTCOME_FAIL, log_e=14.9, log_threshold=13.8
        )
    )
    return Moment(
        "support-answers", "", status(AFTER, rolled_back="fast"), at_s=12.5, until_s=30.0, decisions=3750,
        rewards=13_000, decisions_per_s=300.0, rewards_per_s=1100.0, verdicts=happenings.verdicts, events=events,
    )  # fmt: skip


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40)])
def test_the_picture_fits_and_shows_the_numbers(width: int, height: int) -> None:
    lines = drawn(moment(), width, height)
    assert len(lines) < height
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "70.0 ±5.0" in text  # satisfied, in per cent
    assert "9.00 ±0.10" in text  # cost of a thousand answers
    assert "14.9 / 13.8" in text
    assert "FAIL unsafe-burst: fast unsafe 0.080 of 200" in text
    assert "ROLLBACK" in text
    assert "12 of 30 s" in text
    assert "…" not in "".join(line for line in lines if "tuned" in line and "±" in line)


def test_a_small_terminal_loses_the_oldest_events_first() -> None:
    events = [Event(float(at), "world", f"event {at}") for at in range(30)]
    shown = moment()
    shown.events = events
    lines = drawn(shown, 80, 24)
    assert len(lines) < 24
    seen = [line for line in lines if "event " in line]
    assert seen
    assert seen[-1].endswith("event 29")
    assert len(seen) < 30


def test_lines_for_a_pipe() -> None:
    assert second_line(moment()) == (
        "  12.5 s | decisions 3750 | rewards 13000 | baseline 30.0 %, best with 0.400 | "
        "tuned 70.0 %, best with 0.400 | fast 0.0 %, best with 0.400"
    )
    assert second_line(Moment("x", note="compiling kernels: 3 s")).endswith("compiling kernels: 3 s")
    assert event_line(Event(3.25, "rollback", "fast gets no more traffic")) == (
        "   3.2 s | ROLLBACK: fast gets no more traffic"
    )


@pytest.mark.parametrize(
    ("part", "drawn_bar"),
    [(0.0, "    "), (1e-9, "▏   "), (0.5, "██  "), (0.53125, "██▏ "), (1.0, "████"), (1.7, "████")],
)
def test_bars(part: float, drawn_bar: str) -> None:
    assert bar(part, 4) == drawn_bar
