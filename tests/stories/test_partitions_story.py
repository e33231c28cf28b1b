"""A release in three partitions: banditctl, several serving processes, a file of rewards, a learner that is killed."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path

import pytest
import redis

from bandit.client import Client
from bandit.client.connection import split_tokens
from bandit.ctl.text import token_text
from bandit.errors import BanditError
from bandit.v1 import reward_service_pb2 as wire
from server.store.embedded import Embedded
from tests.double.command import SPEC, Command
from tests.service import Service, until

WITHIN_S = 90.0
WORKERS = 3


def left(url: str, name: str) -> list[str]:
    """Keys of the experiment's ledgers that the store still has."""
    with contextlib.closing(redis.Redis.from_url(url)) as client:
        found = [key.decode() for key in client.scan_iter(f"*{{{name}*")]
    return [key for key in found if not key.endswith((":past", ":deletion", ":secured"))]


@pytest.mark.timeout(400)
def test_a_release_in_three_partitions(tmp_path: Path) -> None:
    file, rewards = tmp_path / "answers.yaml", tmp_path / "rewards.jsonl"
    file.write_text(SPEC + "partitions: 3\n")
    settings = tmp_path / "banditd.toml"
    settings.write_text(f'[[sources]]\nname = "batch"\nkind = "jsonl"\npath = "{rewards}"\n')
    with Embedded(tmp_path / "store") as store:
        arguments = ("--store", store.url, "--workers", str(WORKERS), "--config", str(settings))
        with Service(tmp_path / "kept", *arguments) as service:
            ctl = Command(service.listen)
            assert ctl("apply", "-f", str(file), "--yes").code == 0
            assert ctl("start", "answers").code == 0
            file.write_text(SPEC + "partitions: 2\n")
            refused = ctl("apply", "-f", str(file), "--yes")
            assert refused.code != 0
            assert "created with partitions: 3" in refused.err
            tokens: list[bytes] = []
            for turn in range(6 * WORKERS):
                # A connection each: the port is shared, and each process has a partition.
                with service.client() as client:
                    until(lambda: _decides(client, turn, tokens), WITHIN_S, "servers know it")  # noqa: B023
            told = len(tokens) // 2
            events = [wire.RewardEvent(token=each, metric="helpful", value=1.0) for each in tokens]
            with service.client() as client:
                client.report_rewards(events[:told])
                assert service.kill("--child learn")
                with rewards.open("w") as lines:
                    for each in tokens[told // 2 :]:
                        lines.write(
                            json.dumps({"token": token_text(each), "metric": "helpful", "value": 1}) + "\n"
                        )

                def counted() -> bool:
                    status = client.status("answers")
                    return (status.exposures, status.rewards.applied) == (len(tokens), len(tokens))

                until(counted, WITHIN_S, "every decision and reward is counted once")
                status = client.status("answers")
            parts = status.partitions
            assert [each.partition for each in parts] == [0, 1, 2]
            assert sum(each.exposures for each in parts) == len(tokens)
            assert sum(each.rewards_applied for each in parts) == len(tokens)
            assert sum(bool(each.exposures) for each in parts) > 1
            assert sum(arm.exposures for arm in status.arms) == len(tokens)
            assert status.rewards.duplicate == told - told // 2
            assert "in 3 partitions: 0: " in ctl("status", "answers").out
            sources = ctl("--json", "ingest", "status").document["sources"]
            (batch,) = [each for each in sources if each["name"] == "batch"]
            assert int(batch["counts"]["received"]) == len(tokens) - told // 2
            assert ctl("pause", "answers").code == 0
            assert left(store.url, "answers")
            assert ctl("delete", "answers", "--yes").code == 0
            until(lambda: not left(store.url, "answers"), WITHIN_S, "nothing of it is left")


def _decides(client: Client, turn: int, tokens: list[bytes]) -> bool:
    try:
        reply = client.decide_batch("answers", [f"u{turn}-{number}" for number in range(10)])
    except BanditError:
        time.sleep(0.1)
        return False
    tokens.extend(split_tokens(reply))
    return True
