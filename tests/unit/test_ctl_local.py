"""Commands to one server itself: they work while the store is away, and say what they did to whom."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from server.store.memory import MemoryStore
from tests.double.command import Command
from tests.serving import Faulty, Serving, put_running, serving, until


@pytest.fixture
def store() -> Faulty:
    made = Faulty(MemoryStore())
    made.beat("learner", 1_000_000)
    put_running(made)
    return made


@pytest.fixture
def served(store: Faulty) -> Iterator[Serving]:
    with capture_logs(), serving(store) as made:  # the server's log is not the command's output
        yield made


@pytest.fixture
def ctl(served: Serving) -> Command:
    return Command(f"127.0.0.1:{served.port}")


def shares(served: Serving) -> tuple[int, ...]:
    snapshot = served.keeper.snapshot
    assert snapshot is not None
    return snapshot.table(snapshot.entries["answers"], snapshot.read_s).shares_ppm


def test_an_arm_is_stopped_while_the_store_is_away(served: Serving, store: Faulty, ctl: Command) -> None:
    store.broken.add("all")
    done = ctl("stop-arm", "answers", "small", "--reason", "it rambles", "--actor", "anna")
    assert (done.code, done.err) == (0, "")
    assert "small is stopped on 127.0.0.1:" in done.out
    assert shares(served) == (700_000, 0, 300_000)
    shown = ctl("server").out
    assert "stopped here: experiments/answers/arms/small by client/anna: it rambles" in shown
    document = ctl("--json", "stop-arm", "answers", "small", "--reason", "again").document
    assert [stop["reason"] for stop in document["stops"]] == ["it rambles"]
    assert ctl("status", "answers").code == 7, "the store is away"
    store.broken.clear()
    until(lambda: "is stopped on this server by client/anna" in ctl("status", "answers").out)


def test_what_cannot_be_stopped_has_its_exit_code(ctl: Command) -> None:
    assert ctl("stop-arm", "answers", "control", "--reason", "r").code == 6
    assert ctl("stop-arm", "answers", "medium", "--reason", "r").code == 4
    assert ctl("stop-arm", "unknown", "small", "--reason", "r").code == 4
    assert ctl("stop-arm", "answers", "small").code == 2


def test_a_store_that_lost_everything_is_accepted_only_when_somebody_says_so(
    served: Serving, store: Faulty, ctl: Command
) -> None:
    version = store.store.version()
    store.store = MemoryStore()
    store.instead["version"] = lambda: version - 1
    until(lambda: "does not believe the store" in ctl("server").out)
    document = ctl("--json", "server").document
    assert document["set_back"]
    assert document["experiments"] == 1
    assert shares(served) == (400_000, 300_000, 300_000)
    del store.instead["version"]
    assert ctl("accept-store", "--reason", "a new one").code == 2, "nobody can be asked"
    done = ctl("accept-store", "--reason", "a new one", "--yes")
    assert (done.code, done.err) == (0, "")
    until(lambda: ctl("--json", "server").document["experiments"] == 0)
    assert not ctl("--json", "server").document["set_back"]
