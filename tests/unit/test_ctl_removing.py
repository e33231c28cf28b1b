"""banditctl ingest remove and release: what is asked, what is said when it is done, times as people write them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

import click
import pytest
from structlog.testing import capture_logs

from bandit.client import Client
from bandit.ctl.exits import Exit
from bandit.ctl.removing import Moment
from bandit.spec.parse import parse_yaml
from server.store.memory import MemoryStore
from tests.double.command import SPEC, Command
from tests.learning import learner
from tests.serving import serving, until


class Ground(NamedTuple):
    ctl: Command
    client: Client


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    """A server and a learner; ``answers`` keeps events and has one reward by gRPC, ``brief`` keeps none."""
    store = MemoryStore()
    with (
        capture_logs(),
        serving(store) as running,
        learner(store),
        Client(f"127.0.0.1:{running.port}", timeout_s=30) as client,
    ):
        client.create(parse_yaml(SPEC + "event_retention: 1h\n"))
        client.create(parse_yaml(SPEC.replace("experiment: answers", "experiment: brief")))
        client.start("answers")
        until(lambda: client.decide("answers", "u").token, 60, "decisions count")
        client.report_reward(client.decide("answers", "u").token, "helpful", 1.0, wait=True)
        until(lambda: client.status("answers").rewards.applied == 1, 60, "the reward is counted")
        yield Ground(Command(f"127.0.0.1:{running.port}"), client)


def test_a_source_is_removed_and_released(ground: Ground) -> None:
    done = ground.ctl(
        "ingest", "remove", "answers", "--source", "grpc", "--reason", "bots", terminal=True, stdin="n\n"
    )
    assert done.code == Exit.STOPPED
    assert not ground.client.get("answers").quarantines
    ground.client.roll_back("answers", "new", "complaints")
    done = ground.ctl("ingest", "remove", "answers", "--source", "grpc", "--yes", "--timeout", "60")
    assert done.code == 0, done.err
    assert (
        "answers: the events of grpc are taken back, 1 had been counted; those that come are rejected"
        in done.out
    )
    assert "new stays rolled back (complaints)" in done.out
    status = ground.client.status("answers")
    assert (status.rewards.applied, status.rewards.rejected) == (0, 1)
    assert any("grpc is removed" in warning for warning in status.warnings)
    done = ground.ctl("ingest", "remove", "answers", "--source", "grpc", "--yes")
    assert done.code == Exit.NOT_ALLOWED
    assert "release it first" in done.err
    done = ground.ctl("ingest", "release", "answers", "--source", "grpc", "--timeout", "60", "--json")
    assert done.code == 0, done.err
    assert done.document["quarantines"][0]["until_time"]
    assert not ground.client.status("answers").warnings


def test_what_is_not_kept_is_refused_with_a_way_out(ground: Ground) -> None:
    done = ground.ctl("ingest", "remove", "brief", "--source", "grpc", "--yes")
    assert done.code == Exit.NOT_ALLOWED
    assert "write event_retention in its spec" in done.err


def test_times_as_people_write_them() -> None:
    moment = Moment()
    assert moment.convert("2026-01-31T12:00:00Z", None, None) == 1_769_860_800_000
    assert moment.convert("2026-01-31T12:00:00", None, None) == 1_769_860_800_000
    assert abs(moment.convert("2h", None, None) - (time.time() - 7200) * 1000) < 60_000
    with pytest.raises(click.BadParameter, match="2h for two hours ago"):
        moment.convert("yesterday", None, None)
