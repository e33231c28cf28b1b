"""banditctl ingest: sources and letters for people and for scripts, replays, files of rewards, honest exit codes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from structlog.testing import capture_logs

from bandit.ctl.exits import Exit
from server.store.fed import Burial, Letter
from server.store.memory import MemoryStore
from tests.double.command import Command
from tests.ingesting import NAME, World, drain, event
from tests.serving import serving, until
from tests.sources import Folder


class Ground(NamedTuple):
    world: World
    ctl: Command
    folder: Path

    def read(self, *bodies: bytes) -> None:
        folder = Folder(self.folder)
        folder.send(bodies)
        pipeline = self.world.pipeline(folder.source())
        pipeline.open()
        drain(pipeline)
        pipeline._end()


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[World, Command]]:
    store = MemoryStore()
    world = World(store)
    with capture_logs(), serving(store) as running:  # the server would log to the command's stdout
        until(lambda: running.keeper.snapshot is not None, 60, "the first snapshot")
        yield world, Command(f"127.0.0.1:{running.port}")


@pytest.fixture
def ground(shared: tuple[World, Command], tmp_path: Path) -> Ground:
    world, ctl = shared
    for letter in world.store.letters("", 500):
        world.store.unbury(letter)
    return Ground(world, ctl, tmp_path)


def bury(world: World, number: int, source: str = "clicks", body: bytes = b"{") -> None:
    letter = Letter(source, "NOT_JSON", f"no JSON {number}", body, {}, f"p {number}", 1_700_000_000_000)
    world.store.bury(Burial(source, [letter], {"received": 1, "dead": 1}))


def source(document: Any, name: str) -> Any:
    (found,) = [each for each in document["sources"] if each["name"] == name]
    return found


def test_status_for_people_and_for_scripts(ground: Ground) -> None:
    ground.read(*ground.world.good(3), b"\x1b[31mred")
    document = ground.ctl("--json", "ingest", "status").document
    found = source(document, NAME)
    assert found["counts"]["received"] == found["counts"]["dead_lettered"] + found["counts"]["waiting"]
    assert found["reasons"] == {"NOT_JSON": 1}
    assert document["dead_letters"] == 1
    said = ground.ctl("ingest", "status")
    assert (said.code, said.err) == (0, "")
    assert NAME in said.out
    assert "dead letters: 1" in said.out


def test_warnings_are_told(ground: Ground) -> None:
    ground.world.store.put_source("odd", b"nonsense")
    assert "odd: what its process said of it cannot be read" in " ".join(
        ground.ctl("ingest", "status").out.split()
    )


def test_letters_are_shown_with_why_and_nothing_of_them_reaches_the_terminal_raw(ground: Ground) -> None:
    bury(ground.world, 1, body=b"\x1b[31mred\xff" + b"x" * 500)
    bury(ground.world, 2, "orders")
    said = ground.ctl("ingest", "letters")
    assert (said.code, said.err) == (0, "")
    assert "\x1b" not in said.out
    assert "NOT_JSON: no JSON 1" in said.out
    assert "\\xff" in said.out
    assert "..." in said.out
    assert len(said.out.splitlines()) == 4
    assert len(ground.ctl("ingest", "letters", "-n", "1").out.splitlines()) == 2
    document = ground.ctl("--json", "ingest", "letters", "--source", "orders").document
    assert [letter["message"] for letter in document["letters"]] == ["no JSON 2"]
    assert ground.ctl("ingest", "letters", "--reason", "BAD_TOKEN").out == "no such letters\n"


def test_a_replay_asks_and_says_what_became_of_it(ground: Ground) -> None:
    bury(ground.world, 1)
    bury(ground.world, 2, "orders", body=event(token=ground.world.token(70_001)))
    refused = ground.ctl("ingest", "replay")
    assert (refused.code, refused.out) == (Exit.USAGE, "")
    assert "--yes" in refused.err
    assert len(ground.world.store.letters("", 10)) == 2
    done = ground.ctl("--json", "ingest", "replay", "--yes", "--source", "orders")
    assert done.document == {"accepted": 1, "refused": 0, "stayed": 0, "reasons": {}}
    done = ground.ctl("ingest", "replay", "--yes")
    assert (done.code, done.out) == (0, "0 counted now, 0 late or rejected, 1 stay (NOT_JSON 1)\n")
    assert [letter.message for letter in ground.world.store.letters("", 10)] == ["no JSON 1"]


def test_a_file_is_reported_line_by_line(ground: Ground, tmp_path: Path) -> None:
    file = tmp_path / "rewards.jsonl"
    lines = [
        *ground.world.good(2), b"", b"nonsense", b"[1]", event(token=ground.world.token(70_100), value="1"),
        event(token=ground.world.token(70_101), value=7.0), b'{"valeu": 1}',
    ]  # fmt: skip
    file.write_bytes(b"\n".join(lines) + b"\n")
    done = ground.ctl("--json", "ingest", "file", str(file))
    assert done.code == Exit.NOT_COUNTED
    assert done.document == {"lines": 7, "outcomes": {"accepted": 2, "rejected": 1, "unreadable": 4}}
    assert "line 4: no JSON" in done.err
    assert "line 6: value '1' is no number" in done.err
    assert "line 7: rejected (NOT_BINARY)" in done.err
    file.write_bytes(b"".join(line + b"\n" for line in lines[:2]))
    again = ground.ctl("ingest", "file", str(file))
    assert (again.code, again.out) == (0, "2 accepted\n")
    file.write_bytes(b"")
    assert ground.ctl("ingest", "file", str(file)).out == "no lines\n"


def test_what_is_no_file_or_command_is_wrong_usage(ground: Ground) -> None:
    assert ground.ctl("ingest", "file", "/nowhere").code == Exit.USAGE
    assert ground.ctl("ingest", "staus").code == Exit.USAGE
    assert json.dumps(ground.ctl("ingest", "--help").out)
