"""A banditd of several processes on a cluster, one of whose primaries dies in the middle of a release."""

from __future__ import annotations

import time
from pathlib import Path

from bandit.client.connection import split_tokens
from bandit.errors import BanditError
from bandit.v1 import reward_service_pb2 as wire
from server.store.keys import Keys
from tests.builders import spec
from tests.clusters import Cluster
from tests.service import Service, until

WITHIN_S = 90.0


def test_a_release_goes_on_while_a_primary_of_the_cluster_is_replaced(tmp_path: Path) -> None:
    with Cluster(tmp_path / "cluster", replicas=1) as cluster:
        service = Service(tmp_path / "kept", "--store", cluster.url, "--reward-durability", "replicated")
        with service, service.client() as client:
            client.create(spec(bounds={"floor": 0.2, "control_floor": 0.2}))
            client.start("answers")
            until(lambda: min(arm.share_ppm for arm in client.status("answers").arms) > 0, 60, "shares")
            tokens: list[bytes] = []

            def decide(count: int) -> None:
                units = [f"u{len(tokens) + number}" for number in range(count)]
                tokens.extend(split_tokens(client.decide_batch("answers", units)))

            decide(500)
            owner = cluster.owner(Keys().of("answers").head)
            until(lambda: owner.admin.execute_command("WAIT", 1, 1000), 60, "its replica heard all")
            owner.kill()
            for _ in range(10):
                decide(50)  # nobody who decides waits for the store
            events = [wire.RewardEvent(token=token, metric="satisfied", value=1.0) for token in tokens]
            deadline = time.monotonic() + WITHIN_S
            while True:
                try:
                    results = client.report_rewards(events)
                    break
                except BanditError:
                    assert time.monotonic() < deadline, "the replica took over"
                    time.sleep(0.1)
            assert {result.outcome for result in results} <= {
                wire.REWARD_OUTCOME_ACCEPTED,
                wire.REWARD_OUTCOME_DUPLICATE,
            }

            def counted() -> bool:
                try:
                    seen = client.status("answers")
                except BanditError:
                    return False
                return (seen.exposures, seen.rewards.applied) == (len(tokens), len(tokens))

            until(counted, WITHIN_S, "every decision and every reward is counted once")
            assert client.status("answers").exposures_lost == 0
            client.roll_back("answers", "small", reason="too short")
            assert next(
                arm for arm in client.status("answers").arms if arm.arm.endswith("small")
            ).state.HasField("rollback")
