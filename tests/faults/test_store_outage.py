"""The store stopped under load and away for a while: every decision is answered, afterwards every count is exact."""

from __future__ import annotations

import collections
import threading
import time
from pathlib import Path

import pytest

from bandit.errors import BanditError
from bandit.v1 import decision_service_pb2 as decisions_pb2
from bandit.v1 import reward_service_pb2 as wire
from server.store.embedded import Embedded
from tests.builders import spec
from tests.service import Service, until

AWAY_S = 20.0


class Gateway(threading.Thread):
    """Decides without pause and reports each reward until it is answered."""

    def __init__(self, service: Service, lane: int) -> None:
        super().__init__(daemon=True)
        self.service = service
        self.lane = lane
        self.stop = threading.Event()
        self.modes: collections.Counter[int] = collections.Counter()
        self.per_arm: collections.Counter[str] = collections.Counter()
        self.unanswered: list[str] = []
        self.waiting: collections.deque[wire.RewardEvent] = collections.deque()
        self.rewarded = 0
        self.refused = 0
        self.retry_s = 0.0

    def run(self) -> None:
        number = 0
        with self.service.client(timeout_s=2) as client:
            while not self.stop.is_set() or self.waiting:
                if not self.stop.is_set():
                    number += 1
                    try:
                        reply = client.decide("answers", f"unit-{self.lane}-{number}")
                    except BanditError as error:
                        self.unanswered.append(str(error))
                        continue
                    self.modes[reply.mode] += 1
                    if reply.counted:
                        self.per_arm[reply.arm] += 1
                        self.waiting.append(wire.RewardEvent(token=reply.token, metric="cost", value=0.5))
                if time.monotonic() >= self.retry_s and (len(self.waiting) >= 50 or self.stop.is_set()):
                    self.report()
                time.sleep(0.002)

    def report(self) -> None:
        """One try; what is not answered stays."""
        batch = [self.waiting[index] for index in range(min(50, len(self.waiting)))]
        try:
            with self.service.client(timeout_s=0.5) as hasty:
                results = hasty.report_rewards(batch)
        except BanditError:
            self.refused += 1
            self.retry_s = time.monotonic() + 2.0
            return
        assert {result.outcome for result in results} == {wire.REWARD_OUTCOME_ACCEPTED}
        self.rewarded += len(batch)
        for _ in batch:
            self.waiting.popleft()


@pytest.mark.timeout(240)
def test_the_store_is_away_for_twenty_seconds(tmp_path: Path) -> None:
    store = Embedded(tmp_path / "valkey")
    store.start()
    link = tmp_path / "store.sock"
    link.symlink_to(store.url.removeprefix("unix://"))
    try:
        with Service(tmp_path / "kept", "--store", f"unix://{link}") as service:
            with service.client() as client:
                client.create(spec(bounds={"floor": 0.2, "control_floor": 0.2}))
                client.start("answers")
                until(lambda: min(arm.share_ppm for arm in client.status("answers").arms) > 0, 30, "shares")
            lanes = [Gateway(service, lane) for lane in (0, 1)]
            for lane in lanes:
                lane.start()
            until(lambda: min(lane.rewarded for lane in lanes) > 200, 30, "load before the outage")
            store.stop()  # in order, so that what it acknowledged is on disk: the case is its absence
            gone = time.monotonic()
            answered = sum(sum(lane.modes.values()) for lane in lanes)
            time.sleep(AWAY_S - (time.monotonic() - gone))  # the length of the outage is the case itself
            during = sum(sum(lane.modes.values()) for lane in lanes) - answered
            store = Embedded(tmp_path / "valkey")
            store.start()
            link.unlink()
            link.symlink_to(store.url.removeprefix("unix://"))
            back = sum(lane.rewarded for lane in lanes)
            until(lambda: sum(lane.rewarded for lane in lanes) > back + 400, 60, "rewards taken again")
            for lane in lanes:
                lane.stop.set()
            for lane in lanes:
                lane.join(60)
                assert not lane.is_alive()
            assert [lane.unanswered for lane in lanes] == [[], []]
            assert during > 200
            assert sum(lane.modes[decisions_pb2.SERVING_MODE_STALE] for lane in lanes) > 0
            assert sum(lane.refused for lane in lanes) > 0
            decided = collections.Counter[str]()
            for lane in lanes:
                decided += lane.per_arm
            rewarded = sum(lane.rewarded for lane in lanes)
            with service.client() as client:
                until(
                    lambda: client.status("answers").rewards.applied >= rewarded,
                    60,
                    f"{rewarded} rewards applied",
                )
                until(
                    lambda: client.status("answers").exposures >= decided.total(),
                    60,
                    "every decision counted",
                )
                status = client.status("answers")
            assert {arm.arm: arm.exposures for arm in status.arms} == dict(decided)
            assert status.rewards.applied == rewarded
            assert status.exposures_lost == 0
            assert {arm.arm: arm.metrics[1].n for arm in status.arms} == dict(decided)
    finally:
        store.stop()
