"""A long steady load: file descriptors and memory stay flat, and every count is exact at the end."""

from __future__ import annotations

import collections
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from bandit.client.connection import split_tokens
from bandit.v1 import reward_service_pb2 as wire
from tests.builders import spec
from tests.service import Service, until

BATCH = 20
PAUSE_S = 0.02
# Memory may still grow while caches fill; afterwards no process may gain more than this, in bytes.
GROWTH_BYTES = 12 << 20


class Load(threading.Thread):
    """Decides in batches, rewards half of the decisions, some of them twice."""

    def __init__(self, service: Service) -> None:
        super().__init__(daemon=True)
        self.service = service
        self.stop = threading.Event()
        self.decided: collections.Counter[str] = collections.Counter()
        self.rewarded = 0
        self.repeats = 0
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self._work()
        except Exception as error:  # noqa: BLE001 - shown by the test
            self.error = error

    def _work(self) -> None:
        number = 0
        with self.service.client() as client:
            while not self.stop.wait(PAUSE_S):
                number += 1
                reply = client.decide_batch("answers", [f"u{number}.{index}" for index in range(BATCH)])
                self.decided.update(reply.arms[index] for index in reply.arm_indexes)
                events = [
                    wire.RewardEvent(token=token, metric="cost", value=0.5)
                    for token in list(split_tokens(reply))[: BATCH // 2]
                ]
                repeats = events[:2] if number % 5 == 0 else []
                client.report_rewards(events + repeats)
                self.rewarded += len(events)
                self.repeats += len(repeats)


def measured(service: Service) -> dict[int, tuple[str, int, int]]:
    """Pid -> (part, file descriptors, resident bytes) of every process of the service."""
    out = {}
    page = os.sysconf("SC_PAGE_SIZE")
    for pid, command in service.processes().items():
        part = command.partition("--child ")[2].partition(" ")[0] or command.split()[0].rpartition("/")[2]
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page
        out[pid] = (part, len(list(Path(f"/proc/{pid}/fd").iterdir())), resident)
    return out


@pytest.mark.timeout(1800)
def test_nothing_grows_and_nothing_is_miscounted(
    tmp_path: Path, full: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = 1200.0 if full else 8.0
    with Service(tmp_path / "kept") as service:
        with service.client() as client:
            client.create(spec(bounds={"floor": 0.2, "control_floor": 0.2}))
            client.start("answers")
            until(lambda: min(arm.share_ppm for arm in client.status("answers").arms) > 0, 30, "shares")
        load = Load(service)
        load.start()
        began = time.monotonic()
        until(lambda: load.rewarded > 1000 or load.error, 60, "load")
        until(lambda: time.monotonic() - began > seconds / 4, 1800, "warm")
        before = measured(service)
        # The log keeps ten minutes of what it had folded: until then the store fills.
        until(lambda: time.monotonic() - began > seconds * 0.6, 1800, "a full log")
        filled = measured(service)
        before |= {pid: each for pid, each in filled.items() if "valkey" in each[0]}
        until(lambda: time.monotonic() - began > seconds or load.error, 1800, "the load's time")
        after = measured(service)
        load.stop.set()
        load.join(60)
        assert load.error is None
        with service.client() as client:

            def counted() -> bool:
                status = client.status("answers")
                return status.rewards.applied + status.rewards.duplicate >= load.rewarded + load.repeats

            until(counted, 60, "every reward folded")
            until(
                lambda: client.status("answers").exposures >= load.decided.total(),
                60,
                "every decision counted",
            )
            status = client.status("answers")
    lines = [
        f"{part}: {before[pid][1]} -> {files} files, {before[pid][2] >> 10} -> {resident >> 10} KiB"
        for pid, (part, files, resident) in after.items()
        if pid in before
    ]
    lines.append(f"{load.decided.total()} decisions, {load.rewarded} rewards in {seconds:g} s")
    if full:
        with capsys.disabled():
            sys.stdout.write("\n" + "\n".join(lines) + "\n")
    assert {arm.arm: arm.exposures for arm in status.arms} == dict(load.decided)
    assert (status.rewards.applied, status.rewards.duplicate) == (load.rewarded, load.repeats)
    assert status.exposures_lost == 0
    assert before.keys() == after.keys()
    for pid, (part, files, resident) in after.items():
        assert files <= before[pid][1] + 8, part
        assert not full or resident <= before[pid][2] + GROWTH_BYTES, part
