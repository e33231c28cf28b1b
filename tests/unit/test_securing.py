"""How safe a change is: waited for and told to who asks, never more than is true, and nobody else waits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from bandit.client import Client
from bandit.client.changes import DURABILITY, short_of
from bandit.errors import InvalidArgument, StoreUnavailable
from server.rpc import securing
from server.rpc.securing import Securing
from server.store.base import Durability
from server.store.memory import MemoryStore
from server.store.redis import RedisStore
from tests.builders import spec
from tests.double.command import Command
from tests.serving import Faulty, Serving, load, put_draft, put_running, serving


@pytest.fixture
def store() -> Faulty:
    return Faulty(MemoryStore())


@pytest.fixture
def served(store: Faulty) -> Iterator[Serving]:
    put_running(store)
    with serving(store) as made:
        yield made


def kept_as(store: Faulty, safe: Durability) -> None:
    """What the store says from now on."""
    store.instead["secured"] = lambda name: safe


@contextlib.contextmanager
def client(served: Serving, durability: str = "") -> Iterator[Client]:
    with Client(f"127.0.0.1:{served.port}", durability=durability) as made:
        yield made


@pytest.mark.parametrize("safe", Durability)
def test_every_write_says_what_was_reached_to_who_asks(
    served: Serving, store: Faulty, safe: Durability
) -> None:
    kept_as(store, safe)
    word = safe.name.lower()
    with client(served, "fsynced") as made:
        for write in (
            lambda: made.pause("answers"),
            lambda: made.resume("answers"),
            lambda: made.roll_back("answers", "small", "slow"),
            lambda: made.clear_rollback("answers", "small"),
            lambda: made.update(spec(bounds={"floor": 0.05})),
            lambda: made.promote("answers", "small"),
            lambda: made.create(spec(experiment="other")),
            lambda: made.start("other"),
            lambda: made.pause("other"),
            lambda: made.delete("other"),
        ):
            made.reached = ""
            write()
            assert made.reached == word


def test_nobody_else_waits(served: Serving, store: Faulty) -> None:
    looked: list[str] = []
    waits: Any = securing.Securing.told

    def told(*arguments: Any) -> Durability:
        looked.append("told")
        safe: Durability = waits(*arguments)
        return safe

    with pytest.MonkeyPatch.context() as patch, client(served) as made:
        patch.setattr(securing.Securing, "told", told)
        made.pause("answers")
        assert (made.reached, looked) == ("", [])


def test_an_unknown_word_changes_nothing(served: Serving, store: Faulty) -> None:
    with client(served) as made:
        made._asked = ((DURABILITY, "for ever"),)
        with pytest.raises(InvalidArgument, match="for ever"):
            made.pause("answers")
        with pytest.raises(InvalidArgument, match="durability"):
            Client("127.0.0.1:1", durability="for ever")
    assert load(store).experiment.state.value == "running"


def test_a_change_that_the_store_lost_meanwhile_is_not_safe(store: Faulty) -> None:
    """The replica that took over holds all that was written since, but not the change."""
    before = put_draft(store)
    kept_as(store, Durability.FSYNCED)
    made = Securing(store)
    etag = before.experiment.etag
    uid, revision = etag.split("-")
    assert made.told("answers", etag) is Durability.FSYNCED
    assert made.told("answers", f"{uid}-{int(revision, 16) + 1:x}") is Durability.MEMORY
    assert made.told("answers", f"{int(uid, 16) + 1:x}-{revision}") is Durability.MEMORY
    assert made.told("answers") is Durability.MEMORY, "it was deleted, and is there"
    assert made.told("nowhere") is Durability.FSYNCED
    assert made.told("nowhere", etag) is Durability.MEMORY
    store.broken.add("load")
    assert made.told("answers", etag) is Durability.MEMORY
    store.instead["secured"] = lambda name: (_ for _ in ()).throw(StoreUnavailable("away"))
    assert made.told("nowhere") is Durability.MEMORY


@pytest.mark.parametrize("own_server", ["valkey"], indirect=True)
def test_a_store_with_a_file_says_that_it_has_it_on_disk(own: RedisStore) -> None:
    with serving(own) as made, client(made, "replicated") as asking:
        asking.create(spec())
        assert asking.reached == "fsynced"


def test_banditctl_says_when_less_was_reached(served: Serving, store: Faulty) -> None:
    ctl = Command(f"127.0.0.1:{served.port}")
    kept_as(store, Durability.REPLICATED)
    done = ctl("rollback", "answers", "small", "--reason", "slow", "--durability", "fsynced")
    assert done.code == 0
    assert "rolled back" in done.out
    assert "only replicated" in done.err
    done = ctl("pause", "answers", "--durability", "replicated", "--json")
    assert (done.code, done.err) == (0, "")
    assert '"durability": "DURABILITY_REPLICATED"' in done.out  # the server's log is there too
    kept_as(store, Durability.MEMORY)
    assert ctl("resume", "answers").err == ""
    done = ctl("pause", "answers", "--durability", "replicated", "--json")
    assert done.code == 0
    assert '"durability": "DURABILITY_MEMORY"' in done.out
    assert "only memory" in done.err


@pytest.mark.parametrize(
    ("wanted", "found", "short"),
    [
        ("", "", False), ("", "memory", False), ("fsynced", "", True), ("fsynced", "replicated", True),
        ("replicated", "memory", True), ("replicated", "fsynced", False), ("memory", "memory", False),
    ],
)  # fmt: skip
def test_less_is_told_from_more(wanted: str, found: str, short: bool) -> None:
    assert short_of(wanted, found) is short
