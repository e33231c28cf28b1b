"""Tables of sources: each mistake with its table and what is allowed, all at once, and no secret shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from bandit.errors import InvalidArgument
from server.config import handed_over, load
from server.config.settings import SETTINGS
from server.config.values import seconds, whole
from server.ingest import SOURCES
from server.ingest.base import Chosen, Kind, RewardSource
from server.ingest.settings import MOST_SOURCES, read, setting, shown, text, texts


@dataclass(frozen=True, slots=True)
class Given:
    """A kind of which nothing is connected."""

    path: str = setting(text(), "a path")
    word: str = setting(text(), "a password", default="", secret=True)
    url: str = setting(text(), "a URL", default="")
    hosts: tuple[str, ...] = setting(texts(3), "hosts", default=("a",))
    pause_s: float = setting(seconds(0, 9), "a pause", default=1.0)
    count: int = setting(whole(1, 9), "a count", default=2)

    def __post_init__(self) -> None:
        if self.count == 9:
            raise ValueError("count 9 does not go with this path")


def never(chosen: Chosen, now_ms: Callable[[], int]) -> RewardSource:
    raise AssertionError("checking makes no source")


KINDS: Mapping[str, Kind] = {"given": Kind(Given, never)}


def faults(*tables: Mapping[str, object]) -> dict[str, str]:
    with pytest.raises(InvalidArgument) as error:
        read(tables, KINDS)
    assert error.value.reason == "BAD_CONFIG"
    return {fault.field: fault.description for fault in error.value.violations}


def table(name: str = "orders", **fields: object) -> dict[str, object]:
    return {"name": name, "kind": "given", "path": "/x", **fields}


def test_settings_and_defaults() -> None:
    first, second = read([table(), table("clicks", hosts="b", pause_s=3, silence_s=0, join_share=0.5)], KINDS)
    assert first.settings == Given("/x")
    assert (first.alarms.silence_s, first.alarms.join_share) == (600.0, 0.9)
    assert second.settings == Given("/x", hosts=("b",), pause_s=3.0)
    assert (second.alarms.silence_s, second.alarms.join_share) == (0.0, 0.5)
    assert read([], KINDS) == []


def test_all_mistakes_come_at_once_each_at_its_table() -> None:
    found = faults(
        table(pth="/x", count=0), {"name": "b", "kind": "givn"}, table("B"), {"name": "c", "kind": "given"}
    )
    assert set(found) == {
        "sources[0] (orders).pth",
        "sources[0] (orders).count",
        "sources[1].kind",
        "sources[2].name",
        "sources[3] (c).path",
    }
    assert "did you mean path?" in found["sources[0] (orders).pth"]
    assert "did you mean given?" in found["sources[1].kind"]
    assert "a whole number from 1 to 9" in found["sources[0] (orders).count"]
    assert "is missing" in found["sources[3] (c).path"]


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("silence_s", -1, "seconds from 0"),
        ("silence_s", True, "seconds from 0"),
        ("join_share", 1.5, "a share from 0 to 1"),
        ("join_share", "half", "a share from 0 to 1"),
        ("silense_s", 1, "did you mean silence_s?"),
        ("hosts", [], "1 to 3 texts"),
        ("hosts", ["a", 7], "a text of"),
        ("path", "", "a text of"),
        ("path", "a\0b", "a text of"),
        ("path", 7, "a text of"),
    ],
)
def test_a_wrong_value_says_what_is_allowed(field: str, value: object, says: str) -> None:
    assert says in faults({**table(), field: value})[f"sources[0] (orders).{field}"]


@pytest.mark.parametrize(
    "name", ["grpc", "http", "file", "other", "", "Orders", "a b", "a:b", "é", "x" * 42, 7, None]
)
def test_a_name_that_is_none_is_refused(name: object) -> None:
    assert "sources[0].name" in faults({"name": name, "kind": "given", "path": "/x"})


def test_names_are_of_one_source_each_and_sources_are_few() -> None:
    assert "two sources" in faults(table(), table())["sources[1].name"]
    assert "at most" in faults(*(table(f"s{number}") for number in range(MOST_SOURCES + 1)))["sources"]


def test_settings_that_contradict_each_other_are_refused() -> None:
    assert faults(table(count=9)) == {"sources[0] (orders)": "count 9 does not go with this path"}


def test_no_secret_is_shown() -> None:
    (chosen,) = read([table(word="SECRET", url="redis://u:SECRET@h/0?password=SECRET")], KINDS)
    assert "SECRET" not in json.dumps(shown(chosen))
    assert shown(chosen)["word"] == "***"
    assert "SECRET" not in json.dumps(faults(table(word=["SECRET"], url=["x"])))
    loaded = load({}, {"BANDITD_SOURCES": json.dumps([table(password="SECRET", url="redis://:SECRET@h")])})
    assert "SECRET" not in repr(loaded.config) + json.dumps(loaded.config.shown())
    with pytest.raises(InvalidArgument) as error:
        load({}, {"BANDITD_SOURCES": '{"password": "SECRET"}'})
    assert "SECRET" not in str(error.value)


def test_tables_come_from_the_file_and_reach_a_child(tmp_path: Path) -> None:
    file = tmp_path / "b.toml"
    file.write_text('[[sources]]\nname = "a"\nkind = "jsonl"\npath = "/x"\n[[sources]]\nname = "b"\n')
    loaded = load({}, {}, file=file)
    assert loaded.config.sources == ({"name": "a", "kind": "jsonl", "path": "/x"}, {"name": "b"})
    assert loaded.origins["sources"].place == "b.toml line 1"
    assert handed_over(loaded.config.to_json()).sources == loaded.config.sources
    assert SETTINGS["sources"].metadata["flag"] is False


@pytest.mark.parametrize(
    "raw", ["{", "7", "[7]", '{"name": "a"}', json.dumps([{"name": "x" * 40_000}]), "[" * 9000]
)
def test_what_are_no_tables_is_refused(raw: str) -> None:
    with pytest.raises(InvalidArgument, match="tables"):
        load({}, {"BANDITD_SOURCES": raw})


def test_the_role_of_readers_needs_something_to_read() -> None:
    with pytest.raises(InvalidArgument, match="role ingest"):
        load({"role": "ingest"}, {})


@pytest.mark.parametrize("kind", sorted(SOURCES))
def test_each_kind_needs_to_be_told_where(kind: str) -> None:
    with pytest.raises(InvalidArgument, match="is missing"):
        read([{"name": "a", "kind": kind}], SOURCES)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"kind": "jsonl", "path": "rewards.jsonl"}, "relative"),
        ({"kind": "redis_stream", "url": "embedded", "stream": "s"}, "redis://HOST:PORT"),
        ({"kind": "redis_stream", "url": "http://x", "stream": "s"}, "redis://HOST:PORT"),
    ],
)
def test_what_a_kind_cannot_read_is_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        read([{"name": "a", **fields}], SOURCES)


def test_check_shows_sources_as_toml_and_their_mistakes(tmp_path: Path) -> None:
    import tomllib

    good = [
        {"name": "files", "kind": "jsonl", "path": "/var/log/*.jsonl"},
        {"name": "s", "kind": "redis_stream", "url": "redis://u:SECRET@h/0", "stream": "r"},
    ]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BANDITD_")}

    def check(sources: object) -> subprocess.CompletedProcess[str]:
        environment = {**clean, "BANDITD_SOURCES": json.dumps(sources), "XDG_STATE_HOME": str(tmp_path)}
        command = [sys.executable, "-m", "server", "--check"]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=100, check=False, env=environment
        )

    done = check(good)
    assert done.returncode == 0, done.stderr
    shown_tables = tomllib.loads(done.stdout)["sources"]
    assert [each["name"] for each in shown_tables] == ["files", "s"]
    assert shown_tables[1]["url"] == "redis://u:***@h/0"
    assert "SECRET" not in done.stdout
    done = check([{**good[0], "pth": "x"}])
    assert done.returncode == 2
    assert "sources[0] (files).pth: no such setting; did you mean path?" in done.stderr
