"""JSON lines: what a file may do while it is read: grow in the middle of a line, be rotated, cut, swapped, gone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.ingest.base import MOST_BODY_BYTES, Chosen, Position, RewardSource, SourceUnavailable
from server.ingest.jsonl import MOST_FILES, Settings, make


class Reader:
    """A source, and the places up to which all was taken, as slots keep them."""

    def __init__(self, pattern: Path) -> None:
        self.pattern = pattern
        self.taken: dict[str, Position] = {}
        self.source = self._open()

    def _open(self) -> RewardSource:
        chosen = Chosen("s", "jsonl", Settings(str(self.pattern), look_s=0.01))
        source = make(chosen, lambda: 0)
        source.open(lambda partition: [self.taken[partition]] if partition in self.taken else [])
        return source

    def read(self, limit: int = 1000) -> list[bytes]:
        """One portion, taken."""
        batch = self.source.poll(limit, 0.0)
        for received in batch:
            before = self.taken.get(received.position.partition)
            if before is not None and before.epoch == received.position.epoch:
                assert received.position.offset > before.offset
            self.taken[received.position.partition] = received.position
        self.source.done(batch)
        return [received.body for received in batch]

    def restart(self) -> None:
        """Another process goes on."""
        self.source.close()
        self.source = self._open()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "r.jsonl"


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path / "r*.jsonl*")
    yield reader
    reader.source.close()


def add(path: Path, text: bytes) -> None:
    with path.open("ab") as file:
        file.write(text)


def test_the_last_line_waits_for_its_line_feed(reader: Reader, path: Path) -> None:
    assert reader.read() == []
    for part in (b"a", b"b\nc", b"d"):
        add(path, part)
    assert reader.read() == [b"ab"]
    reader.restart()
    assert reader.read() == []
    add(path, b"\n\r\n  \ne\r\n")
    assert reader.read() == [b"cd", b"e"]


def test_a_restart_goes_on_behind_the_last_line_that_was_taken(reader: Reader, path: Path) -> None:
    add(path, b"".join(b"%d\n" % number for number in range(10)))
    assert reader.read(4) == [b"0", b"1", b"2", b"3"]
    reader.restart()
    assert reader.read(4) == [b"4", b"5", b"6", b"7"]
    assert reader.read(4) == [b"8", b"9"]


def test_a_rotated_file_is_read_to_its_end_before_its_successor(reader: Reader, path: Path) -> None:
    add(path, b"a\nb\n")
    assert reader.read(1) == [b"a"]
    old = path.rename(path.with_suffix(".jsonl.1"))
    os.utime(old, (1, 1))
    add(path, b"c\n")
    assert reader.read() == [b"b", b"c"]
    old.unlink()
    add(path, b"d\n")
    assert reader.read() == [b"d"]


def test_a_file_that_was_unlinked_is_read_to_its_end(reader: Reader, path: Path) -> None:
    add(path, b"a\nb\n")
    assert reader.read(1) == [b"a"]
    path.unlink()
    assert reader.read() == [b"b"]
    assert reader.read() == []
    assert reader.source.state().detail.startswith("no file matches")


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("after", [b"x\n", b"xxxxxxxxxxxxxx\nyyyy\nz\n"])
def test_a_file_that_was_cut_is_read_from_its_beginning(
    reader: Reader, path: Path, after: bytes, restarted: bool
) -> None:
    """Also when it has grown beyond the old place by the time that somebody looks."""
    add(path, b"a\nbb\n")
    assert reader.read() == [b"a", b"bb"]
    with path.open("r+b") as file:
        file.truncate(0)
    add(path, after)
    if restarted:
        reader.restart()
    assert reader.read() == after.splitlines()


def test_a_file_that_gets_the_inode_of_another_is_a_new_one(reader: Reader, path: Path) -> None:
    add(path, b"a\nb\n")
    assert reader.read() == [b"a", b"b"]
    reader.source.close()
    with path.open("wb") as file:  # the same inode, as a file system may give it to a new file
        file.write(b"c\nd\ne\n")
    reader.restart()
    assert reader.read() == [b"c", b"d", b"e"]


def test_a_line_that_is_too_long_is_brought_cut_and_the_next_one_whole(reader: Reader, path: Path) -> None:
    add(path, b"x" * 3_000_000)
    assert reader.read() == []
    add(path, b"\nnext\n")
    first, second = reader.read()
    assert MOST_BODY_BYTES < len(first) <= MOST_BODY_BYTES + 2
    assert second == b"next"


def test_rewinding_brings_lines_again_after_the_lowest_place(reader: Reader, path: Path) -> None:
    add(path, b"a\nb\nc\n")
    assert reader.read(1) == [b"a"]
    (partition, first), *_ = reader.taken.items()
    assert reader.read() == [b"b", b"c"]
    reader.taken.clear()
    reader.source.rewind({partition: [first, first._replace(offset=5)], "other": []})
    assert reader.read() == [b"b", b"c"]
    reader.taken.clear()
    reader.source.rewind({partition: []})
    assert reader.read() == [b"a", b"b", b"c"]
    reader.taken.clear()
    reader.source.rewind({partition: [first._replace(epoch="another")]})
    assert reader.read() == [b"a", b"b", b"c"]


def test_what_is_no_file_is_passed_over(reader: Reader, path: Path, tmp_path: Path) -> None:
    (tmp_path / "r-folder.jsonl").mkdir()
    os.mkfifo(tmp_path / "r-pipe.jsonl")
    (tmp_path / "r-dangling.jsonl").symlink_to(tmp_path / "nowhere")
    add(path, b"a\n")
    assert reader.read() == [b"a"]


def test_the_lag_is_what_was_not_read(reader: Reader, path: Path) -> None:
    add(path, b"a\nbb\nccc")
    assert reader.read(1) == [b"a"]
    assert sum(reader.source.state().lag.values()) == 6
    reader.read()
    assert sum(reader.source.state().lag.values()) == 3
    assert reader.source.state().connected


def test_a_file_that_may_not_be_read_is_an_error_that_is_tried_again(
    reader: Reader, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied")

    add(path, b"a\n")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)
        with pytest.raises(SourceUnavailable, match="Permission denied"):
            reader.read()
    assert reader.read() == [b"a"]


def test_too_many_files_are_refused(reader: Reader, tmp_path: Path) -> None:
    for number in range(MOST_FILES + 1):
        (tmp_path / f"r{number}.jsonl").touch()
    with pytest.raises(SourceUnavailable, match="at most 1000"):
        reader.read()
