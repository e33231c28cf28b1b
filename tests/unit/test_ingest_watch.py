"""When a source is to be looked at, and what is told of it."""

from __future__ import annotations

import json

from prometheus_client import CollectorRegistry

from bandit.errors import Rejected
from server.ingest.base import Alarms, SourceState
from server.ingest.watch import ALARMS, LEAST_EVENTS, WINDOW, Watch
from server.intake.sort import Fate, Sorted, refused
from server.telemetry.ingesting import IngestTelemetry
from server.web import probes
from server.web.probes import QUIET_S, State
from tests.fakes import FakeClock

GOOD = Sorted(Fate.ACCEPTED, None)
DEAD = refused(Rejected("no", reason="BAD_TOKEN"))
UP = SourceState(True, "here", {"p": 3})


def watch(**limits: float) -> Watch:
    found = Watch("s", "kind", "host/1", 0, Alarms(**limits))
    found.seen(UP, 0)
    return found


def test_silence_is_told_after_its_time_and_only_where_something_ever_came() -> None:
    quiet = watch(silence_s=10)
    assert quiet.warnings(1_000_000_000) == {}
    quiet.sorted([GOOD], 1000)
    assert quiet.warnings(11_000) == {}
    assert "nothing came for 11 s" in quiet.warnings(12_000)["silent"]
    quiet.sorted([GOOD], 12_000)
    assert quiet.warnings(13_000) == {}
    never = watch(silence_s=0)
    never.sorted([GOOD], 1000)
    assert never.warnings(10**12) == {}


def test_events_that_find_nothing_are_told_by_their_share_of_the_newest() -> None:
    found = watch(join_share=0.9)
    found.sorted([DEAD] * (LEAST_EVENTS - 1), 0)
    assert found.warnings(0) == {}
    found.sorted([DEAD], 0)
    assert "0% of its last 50 events" in found.warnings(0)["unjoined"]
    found.sorted([GOOD] * (LEAST_EVENTS * 9), 0)
    assert found.warnings(0) == {}
    found.sorted([DEAD] * 51, 0)
    assert "unjoined" in found.warnings(0)
    found.sorted([GOOD] * WINDOW, 0)
    assert found.warnings(0) == {}
    assert "unjoined" not in watch(join_share=0).warnings(0)


def test_losses_and_failures_are_told_until_they_are_over() -> None:
    found = watch()
    found.failing("the store is away")
    assert found.warnings(0) == {"fails": "the store is away"}
    found.seen(SourceState(True, lost=7), 0)
    assert "7 events were gone" in found.warnings(0)["loses"]


def test_the_status_is_json_and_metrics_say_the_same() -> None:
    registry = CollectorRegistry()
    found = Watch("s", "kind", "host/1", 5, Alarms(silence_s=1), IngestTelemetry(registry))
    found.sorted([GOOD, GOOD, DEAD], 2000)
    found.seen(SourceState(True, "here", {"p": 3, "q": 4}, lost=2, redelivered=5, refused_acks=6), 8)
    said = json.loads(found.status(9000))
    assert (said["kind"], said["owner"], said["time_ms"], said["newest_ms"]) == ("kind", "host/1", 9000, 2000)
    assert (said["lag"], said["skipped"], said["lost"]) == ({"p": 3, "q": 4}, 8, 2)
    assert said["reasons"] == {"BAD_TOKEN": 1}
    assert len(said["warnings"]) == 2
    value = registry.get_sample_value
    assert value("banditd_source_events_total", {"source": "s", "outcome": "accepted", "reason": ""}) == 2
    assert (
        value("banditd_source_events_total", {"source": "s", "outcome": "dead", "reason": "BAD_TOKEN"}) == 1
    )
    assert value("banditd_source_lag", {"source": "s"}) == 7
    assert value("banditd_source_lost_total", {"source": "s"}) == 2
    assert value("banditd_source_skipped_total", {"source": "s"}) == 8
    assert value("banditd_source_up", {"source": "s"}) == 1
    assert {alarm: value("banditd_source_alarm", {"source": "s", "alarm": alarm}) for alarm in ALARMS} == {
        "silent": 1, "unjoined": 0, "loses": 1, "fails": 0,
    }  # fmt: skip
    found.seen(SourceState(True, lost=3), 8)
    found.status(9000)
    assert value("banditd_source_lost_total", {"source": "s"}) == 3


def test_reasons_are_few_whatever_comes() -> None:
    found = watch()
    for number in range(100):
        found.sorted([refused(Rejected("no", reason=f"R{number}"))], 0)
    reasons = json.loads(found.status(0))["reasons"]
    assert len(reasons) <= 33
    assert sum(reasons.values()) == 100


def test_a_source_whose_thread_hangs_is_down() -> None:
    """Silence is not health: what was not heard of lately is down, whatever it said last."""
    clock = FakeClock()

    class Kept:
        said: dict[str, bytes]

        def sources(self) -> dict[str, bytes]:
            return self.said

    kept, found = Kept(), watch()
    look = probes.ingest(kept, ["s", "t"], clock)
    kept.said = {"s": found.status(clock.now_ms()), "t": found.status(clock.now_ms())}
    assert look()[0] is State.UP
    clock.advance(QUIET_S + 1)
    kept.said["s"] = found.status(clock.now_ms())
    state, detail = look()
    assert state is State.DOWN
    assert detail.endswith(": t")
    kept.said = {"s": b"\xff", "t": b"[]"}
    assert look()[1].endswith(": s, t")
