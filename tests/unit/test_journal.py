"""The exposure journal: dense numbers, bytes that tell whole from torn, room that ends, order that holds."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit.errors import StoreUnavailable
from bandit.log import EXPOSURE, EXPOSURE_HEADER
from server.journal import Journal, Shipper
from server.journal import journal as module
from server.journal.frames import ENTRY_DECISIONS, Frame, decisions_in, many, one_body, payloads, scan
from server.journal.journal import RETAIN_S
from server.journal.segments import START, Folder, Segment
from server.journal.shipper import CHECK_EVERY_S
from server.store.memory import MemoryStore
from tests.fakes import FakeClock
from tests.journaling import Folded, Known
from tests.serving import Faulty, put_draft

SEGMENT = 4096

frames = st.builds(
    lambda uid, epoch, allocation, first, cohort, arms, known: Frame(
        uid, epoch, allocation, first, cohort, arms, bytes(arm % 129 for arm in arms) if known else b""
    ),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**15 - 1),
    st.binary(min_size=1, max_size=70),
    st.booleans(),
)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def journal(tmp_path: Path, clock: FakeClock) -> Iterator[Journal]:
    made = Journal(tmp_path, 1, segment_bytes=SEGMENT, monotonic_s=clock.monotonic_s)
    yield made
    if made._segments:
        made.close()


@pytest.fixture
def store() -> Faulty:
    made = Faulty(MemoryStore())
    put_draft(made, "answers")
    put_draft(made, "other")
    return made


@pytest.fixture
def shipper(journal: Journal, store: Faulty, clock: FakeClock) -> Shipper:
    return Shipper(journal, store, Known({1: "answers", 2: "other"}), clock)


def logged(store: Any, name: str = "answers") -> Folded:
    return Folded().fold(store.store.read({name: "0-0"}, 1_000_000, 0).get(name, []))


# --- bytes ---


@given(st.lists(frames, max_size=6))
def test_frames_come_back(written: list[Frame]) -> None:
    packed = b"".join(map(many, written))
    assert len(packed) % 8 == 0
    assert scan(packed + bytes(64), 0) == (written, 0)


@given(st.lists(frames, min_size=1, max_size=4), st.data())
def test_a_cut_frame_is_told_from_whole_ones(written: list[Frame], data: st.DataObject) -> None:
    *whole, last = (many(frame) for frame in written)
    cut = data.draw(st.integers(0, len(last) - 1))
    found, torn = scan(b"".join(whole) + last[:cut] + bytes(len(last) - cut + 64), 0)
    rest = last[cut:].strip(b"\0")
    assert found == (written[:-1] if rest else written)
    assert torn == (1 if rest and last[:cut].strip(b"\0") else 0)


@given(st.lists(frames, min_size=3, max_size=5), st.data())
def test_a_hole_costs_only_what_was_in_it(written: list[Frame], data: st.DataObject) -> None:
    packed = [many(frame) for frame in written]
    hole = data.draw(st.integers(0, len(packed) - 2))
    spoilt = bytearray(packed[hole])
    at = data.draw(st.integers(0, len(many(written[hole])) - 8)) // 8 * 8
    spoilt[at : at + 8] = bytes(byte ^ 0x5A for byte in spoilt[at : at + 8])
    packed[hole] = bytes(spoilt)
    found, torn = scan(b"".join(packed) + bytes(64), 0)
    assert found == written[:hole] + written[hole + 1 :]
    assert torn == 1


def test_one_decision_takes_32_bytes_and_a_batch_one_each(journal: Journal) -> None:
    journal.record(1, 1, 1, 0, 1)
    assert journal._at == START + 32
    journal.record_many(1, 1, 1, 0, bytes(1000))
    assert journal._at == START + 32 + 1032


@given(
    st.lists(
        st.tuples(
            st.integers(1, 2),
            st.integers(1, 2),
            st.integers(1, 9),
            st.integers(0, 3),
            st.binary(min_size=1, max_size=9),
        )
    ),
    st.integers(0, 40),
)
def test_entries_hold_every_decision_once_in_order(
    calls: list[tuple[int, int, int, int, bytes]], big: int
) -> None:
    following: dict[int, int] = {}
    written: list[Frame] = []
    for uid, epoch, allocation, cohort, arms in calls:
        arms = arms * (big * 50 + 1)
        buckets = bytes((arm * 5 + len(written)) % 129 for arm in arms) if len(written) % 3 else b""
        written.append(Frame(uid, epoch, allocation, following.get(uid, 0), cohort, arms, buckets))
        following[uid] = following.get(uid, 0) + len(arms)
    want = [
        (f.uid, f.epoch, f.first + i, f.allocation, f.cohort, arm, f.buckets[i] if f.buckets else 0)
        for f in written
        for i, arm in enumerate(f.arms)
    ]
    got = []
    for payload in payloads(written, 9):
        issuer, epoch, first = EXPOSURE_HEADER.unpack_from(payload.payload)
        assert issuer == 9
        assert 1 <= payload.decisions == decisions_in(payload.payload) <= ENTRY_DECISIONS
        for i, record in enumerate(EXPOSURE.iter_unpack(payload.payload[EXPOSURE_HEADER.size :])):
            got.append((payload.uid, epoch, first + i, *record))
    for uid in (1, 2):
        assert [row for row in got if row[0] == uid] == [row for row in want if row[0] == uid]
    assert len(got) == len(want)


# --- numbers ---


def test_numbers_are_dense_for_each_experiment(journal: Journal) -> None:
    assert [journal.record(uid, 1, 1, 0, 0) for uid in (1, 1, 2, 1, 2)] == [0, 1, 0, 2, 1]
    assert journal.record_many(1, 1, 1, 0, bytes(10)) == 3
    assert journal.record(1, 2, 5, 0, 0) == 13


def test_threads_never_share_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, 1)
    pack, pack_many = one_body, many

    def slowly(*fields: int) -> bytes:
        time.sleep(0)  # lets another thread run in the middle
        return pack(*fields)

    def slowly_many(frame: Frame) -> bytes:
        time.sleep(0)
        return pack_many(frame)

    monkeypatch.setattr(module, "one_body", slowly)
    monkeypatch.setattr(module, "many", slowly_many)
    taken: list[list[int]] = [[] for _ in range(4)]

    def work(mine: list[int]) -> None:
        for index in range(500):
            if index % 10:
                number = journal.record(1, 1, 1, 0, 0)
                assert number is not None
                mine.append(number)
            else:
                first = journal.record_many(1, 1, 1, 0, bytes(5))
                assert first is not None
                mine.extend(range(first, first + 5))

    threads = [threading.Thread(target=work, args=(mine,)) for mine in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for mine in taken for number in mine) == list(range(4 * (450 + 50 * 5)))
    journal.close()


# --- room ---


def test_without_room_decisions_go_on_uncounted(tmp_path: Path, store: Faulty) -> None:
    journal = Journal(tmp_path, 1, segment_bytes=SEGMENT, max_bytes=2 * SEGMENT)
    shipper = Shipper(journal, store, Known({1: "answers"}), FakeClock())
    room = 2 * ((SEGMENT - START) // 32)
    numbers = [journal.record(1, 1, 1, 0, 1) for _ in range(room + 10)]
    assert numbers == [*range(room), *([None] * 10)]
    assert journal.record_many(1, 1, 1, 0, bytes(3)) is None
    assert journal.not_journaled == 13
    assert journal.bytes_held == 2 * SEGMENT
    shipper.step()
    assert journal.record(1, 1, 1, 0, 1) == room, "numbers stay dense over what was not counted"
    shipper.step()
    assert len(logged(store).decisions) == room + 1
    assert logged(store).gaps == 0
    journal.close()


def test_a_full_disk_is_tried_again_after_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    journal = Journal(tmp_path, 1, segment_bytes=SEGMENT, monotonic_s=clock.monotonic_s)
    tries: list[int] = []
    write = os.write

    def full(number: int, content: Any) -> int:
        tries.append(number)
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(os, "write", full)
    room = (SEGMENT - START) // 32
    assert [journal.record(1, 1, 1, 0, 1) for _ in range(room)] == list(range(room))
    assert [journal.record(1, 1, 1, 0, 1) for _ in range(5)] == [None] * 5
    assert len(tries) == 1
    assert len(list(journal.path.glob("*.journal"))) == 1, "the half-made file is gone"
    monkeypatch.setattr(os, "write", write)
    assert journal.record(1, 1, 1, 0, 1) is None
    clock.advance(1.1)
    assert journal.record(1, 1, 1, 0, 1) == room
    journal.close()


def test_a_batch_that_no_segment_holds_is_not_counted(journal: Journal) -> None:
    assert journal.record_many(1, 1, 1, 0, bytes(SEGMENT)) is None
    assert journal.record_many(1, 1, 1, 0, bytes(SEGMENT - START - 32)) == 0


def test_a_batch_moves_on_when_the_rest_of_a_segment_is_too_small(
    journal: Journal, shipper: Shipper, store: Faulty
) -> None:
    for _ in range(10):
        assert journal.record_many(1, 1, 1, 0, bytes(700)) is not None
    assert shipper.step() == 7000
    assert logged(store).next == {1: 7000}


# --- shipping ---


def test_what_is_shipped_is_never_read_again(
    journal: Journal, shipper: Shipper, store: Faulty, clock: FakeClock
) -> None:
    for round_ in range(20):
        for _ in range(100):
            journal.record(1, 1, 1, 0, round_)
            journal.record(2, 1, 1, 0, round_)
        assert shipper.step() == 200
        assert shipper.step() == 0
    assert journal.bytes_held == len(list(journal.path.glob("*.journal"))) * SEGMENT
    clock.advance(RETAIN_S)  # by then no store that loses its last writes needs them again
    assert shipper.step() == 0
    assert len(list(journal.path.glob("*.journal"))) == 1
    for name in ("answers", "other"):
        assert logged(store, name).next == {1: 2000}
        assert logged(store, name).repeats == 0
    assert shipper.counts.shipped == 4000


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_a_batch_that_may_have_been_taken_is_sent_again(
    journal: Journal, shipper: Shipper, store: Faulty, taken: int
) -> None:
    """Three entries of one experiment; the store takes some and then does not answer."""
    journal.record_many(1, 1, 1, 0, bytes(2000))
    journal.record_many(1, 2, 2, 0, bytes(1500))
    journal.record_many(1, 3, 3, 0, bytes(300))
    left = [taken]

    def ship(entries: list[Any]) -> list[int | None]:
        ends: list[int | None] = store.store.ship(entries)
        if not left[0]:
            raise StoreUnavailable("no answer")
        left[0] -= 1
        return ends

    store.instead["ship"] = ship
    with pytest.raises(StoreUnavailable):
        shipper.step()
    store.instead.clear()
    journal.record(1, 3, 3, 0, 5)
    shipper.step()
    folded = logged(store)
    assert folded.gaps == 0
    assert folded.next == {1: 3801}
    assert folded.repeats < 2000  # what was taken whole is not taken again


def test_one_call_never_holds_two_entries_of_an_experiment(
    journal: Journal, shipper: Shipper, store: Faulty
) -> None:
    calls: list[list[str]] = []

    def ship(entries: list[Any]) -> list[int | None]:
        calls.append([entry.experiment for entry in entries])
        ends: list[int | None] = store.store.ship(entries)
        return ends

    store.instead["ship"] = ship
    for epoch in range(1, 4):
        journal.record_many(1, epoch, 1, 0, bytes(10))
    journal.record_many(2, 1, 1, 0, bytes(10))
    shipper.step()
    assert calls == [["answers", "other"], ["answers"], ["answers"]]


def test_decisions_of_deleted_experiments_are_dropped_and_counted(journal: Journal, store: Faulty) -> None:
    shipper = Shipper(journal, store, Known({1: "answers", 3: "never-there"}), FakeClock())
    journal.record(1, 1, 1, 0, 0)
    journal.record_many(2, 1, 1, 0, bytes(5))  # its name is gone
    journal.record_many(3, 1, 1, 0, bytes(7))  # the store does not have it any more
    assert shipper.step() == 1
    assert shipper.counts.dropped == 12
    assert journal.unshipped() is None


def test_an_experiment_not_known_yet_is_waited_for(journal: Journal, store: Faulty) -> None:
    class Unsure(Known):
        def ledger_of(self, uid: int, issuer: int, since_s: float) -> str | None:
            return self.names.get(uid)

    names = Unsure({1: "answers"})
    shipper = Shipper(journal, store, names, FakeClock())
    journal.record(1, 1, 1, 0, 0)
    journal.record(2, 1, 1, 0, 0)
    assert shipper.step() == 0
    names.names[2] = "other"
    assert shipper.step() == 2


# --- closing and adopting ---


def test_close_removes_what_is_shipped_and_leaves_the_rest(tmp_path: Path, store: Faulty) -> None:
    names = Known({1: "answers"})
    first = Journal(tmp_path, 1, segment_bytes=SEGMENT)
    first.record(1, 1, 1, 0, 7)
    first.close()
    assert first.record(1, 1, 1, 0, 7) is None
    second = Journal(tmp_path, 2, segment_bytes=SEGMENT)
    shipper = Shipper(second, store, names, FakeClock())
    assert shipper.step() == 1
    assert shipper.counts.adopted == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2"]
    second.close()
    assert not list(tmp_path.iterdir())


def test_the_living_are_not_adopted(tmp_path: Path, journal: Journal, shipper: Shipper) -> None:
    other = Journal(tmp_path, 2, segment_bytes=SEGMENT)
    other.record(1, 1, 1, 0, 0)
    assert shipper.step() == 0
    assert Folder.adopt(other.path) is None
    assert other.record(1, 1, 1, 0, 0) == 1
    other.close()


def test_only_one_adopts(tmp_path: Path) -> None:
    Journal(tmp_path, 1, segment_bytes=SEGMENT)._folder.release()
    first = Folder.adopt(tmp_path / "1")
    assert first is not None
    assert Folder.adopt(tmp_path / "1") is None
    for path in first.segments():
        path.unlink()
    first.remove()
    assert Folder.adopt(tmp_path / "1") is None


def test_who_looked_before_a_folder_was_removed_does_not_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Journal(tmp_path, 1, segment_bytes=SEGMENT)._folder.release()
    flock = fcntl.flock

    def late(lock: int, how: int) -> None:
        """Another process adopts and removes it between our look and our lock."""
        monkeypatch.setattr(fcntl, "flock", flock)
        other = Folder.adopt(tmp_path / "1")
        assert other is not None
        for path in other.segments():
            path.unlink()
        other.remove()
        flock(lock, how)

    monkeypatch.setattr(fcntl, "flock", late)
    assert Folder.adopt(tmp_path / "1") is None


def test_a_torn_end_and_a_file_without_header_are_passed(tmp_path: Path, store: Faulty) -> None:
    dead = Journal(tmp_path, 1, segment_bytes=SEGMENT)
    for arm in range(5):
        dead.record(1, 1, 1, 0, arm)
    segment, at = dead._segments[-1], dead._at
    segment.map[at : at + 20] = many(Frame(1, 1, 1, 5, 0, b"\1"))[:20]
    (dead.path / "00000001.journal").write_bytes(b"")
    (dead.path / "00000002.journal").write_bytes(b"x" * 100)
    dead._folder.release()
    shipper = Shipper(Journal(tmp_path, 2), store, Known({1: "answers"}), FakeClock())
    assert shipper.step() == 5
    assert shipper.counts.torn == 1
    assert [told.arm for told in logged(store).decisions.values()] == [0, 1, 2, 3, 4]
    assert not (tmp_path / "1").exists()


def test_a_folder_of_our_own_number_is_from_another_life_of_the_store(tmp_path: Path, store: Faulty) -> None:
    old = Journal(tmp_path, 1, segment_bytes=SEGMENT)
    old.record(1, 1, 1, 0, 0)
    old.close()
    new = Journal(tmp_path, 1, segment_bytes=SEGMENT)
    shipper = Shipper(new, store, Known({1: "answers"}), FakeClock())
    assert shipper.step() == 0
    new.close()


def test_a_failed_adoption_leaves_the_folder_to_the_next(
    tmp_path: Path, journal: Journal, shipper: Shipper, store: Faulty
) -> None:
    dead = Journal(tmp_path, 7, segment_bytes=SEGMENT)
    dead.record(1, 1, 1, 0, 0)
    dead.close()
    store.broken.add("ship")
    with pytest.raises(StoreUnavailable):
        shipper.step()
    store.broken.clear()
    folder = Folder.adopt(tmp_path / "7")
    assert folder is not None
    folder.release()
    shipper._adopted_s = float("-inf")
    assert shipper.step() == 1


def test_the_thread_survives_every_exception(
    journal: Journal, store: Faulty, caplog: pytest.LogCaptureFixture
) -> None:
    from server.clock import SystemClock

    shipper = Shipper(
        journal, store, Known({1: "answers"}), SystemClock(), interval_s=0.001, uniform=lambda: 0.0
    )
    failures: list[Callable[[], Exception]] = [
        lambda: StoreUnavailable("away"),
        lambda: KeyError("a bug"),
        lambda: ValueError("another"),
    ]
    met = threading.Event()

    def ship(entries: list[Any]) -> list[int | None]:
        if failures:
            raise failures.pop()()
        met.set()
        ends: list[int | None] = store.store.ship(entries)
        return ends

    store.instead["ship"] = ship
    journal.record(1, 1, 1, 0, 0)
    shipper.start()
    assert met.wait(10)
    assert shipper.stop(5.0)
    assert logged(store).next == {1: 1}


def test_stop_ships_what_is_left(journal: Journal, store: Faulty) -> None:
    from server.clock import SystemClock

    shipper = Shipper(journal, store, Known({1: "answers"}), SystemClock(), interval_s=30.0)
    shipper.start()
    journal.record_many(1, 1, 1, 0, bytes(3000))
    assert shipper.stop(5.0)
    assert logged(store).next == {1: 3000}
    store.broken.add("ship")
    journal.record(1, 1, 1, 0, 0)
    other = Shipper(journal, store, Known({1: "answers"}), SystemClock(), interval_s=0.001)
    other.start()
    assert not other.stop(0.2)


def test_the_position_is_kept_in_the_file(tmp_path: Path) -> None:
    segment = Segment.make(tmp_path, 5, 3, SEGMENT)
    segment.shipped = 96
    segment.close()
    again = Segment.open(tmp_path / "00000003.journal")
    assert again is not None
    assert (again.issuer, again.sequence, again.shipped) == (5, 3, 96)
    again.close()
    assert (tmp_path / "00000003.journal").stat().st_mode & 0o777 == 0o600


# --- a store that lost its last writes ---


def lose(store: Faulty, name: str, entries: int) -> None:
    """Set the experiment's log back by its last entries, as a failover does: with what it says of itself."""
    kept = store.store._kept[name]
    for _ in range(entries):
        _, entry = kept.log.pop()
        issuer, _, first = EXPOSURE_HEADER.unpack_from(entry.payload)
        kept.shipped[issuer] = first


def test_what_the_log_lost_is_shipped_again_before_what_follows(
    journal: Journal, shipper: Shipper, store: Faulty
) -> None:
    """Over several segments, and in the middle of a batch."""
    for round_ in range(30):
        journal.record_many(1, 1, 1, 0, bytes([round_]) * 40)
        journal.record(2, 1, 1, 0, 0)
        for _ in range(10):
            journal.record(1, 1, 1, 0, round_)
        shipper.step()
    assert len(list(journal.path.glob("*.journal"))) > 2
    before = logged(store).decisions
    lose(store, "answers", 25)
    had = logged(store).next[1]
    assert 100 < had < 1000
    journal.record(1, 1, 1, 0, 9)
    journal.record(2, 1, 1, 0, 9)
    assert shipper.step() == 2
    folded = logged(store)
    assert folded.gaps == 0
    assert folded.next == {1: 1501}
    assert folded.decisions.items() >= before.items()
    assert shipper.counts.again == 1501 - had
    assert logged(store, "other").repeats == 0
    assert shipper.counts.shipped == 1532


def test_a_loss_is_noticed_though_nobody_decides_any_more(
    journal: Journal, shipper: Shipper, store: Faulty, clock: FakeClock
) -> None:
    for _ in range(3):
        journal.record_many(1, 1, 1, 0, bytes(7))
        shipper.step()
    lose(store, "answers", 2)
    assert shipper.step() == 0
    assert logged(store).next == {1: 7}
    clock.advance(CHECK_EVERY_S)
    assert shipper.step() == 0
    assert logged(store).next == {1: 21}
    assert logged(store).gaps == 0


def test_what_nobody_has_any_more_is_a_gap_and_what_follows_is_shipped(
    journal: Journal, shipper: Shipper, store: Faulty, clock: FakeClock
) -> None:
    for _ in range(40):
        for _ in range(30):
            journal.record(1, 1, 1, 0, 1)
        shipper.step()
    clock.advance(RETAIN_S)
    shipper.step()
    lose(store, "answers", 39)
    journal.record(1, 1, 1, 0, 2)
    shipper.step()
    folded = logged(store)
    assert folded.next == {1: 1201}
    assert 0 < folded.gaps < 1170


def test_a_dead_process_s_journal_is_shipped_again_from_its_own_segments(
    tmp_path: Path, store: Faulty, clock: FakeClock
) -> None:
    dead = Journal(tmp_path, 5, segment_bytes=SEGMENT)
    shipper = Shipper(dead, store, Known({1: "answers"}), clock)
    for _ in range(200):
        dead.record(1, 1, 1, 0, 3)
    shipper.step()
    lose(store, "answers", 1)
    dead.record(1, 1, 1, 0, 4)
    dead.close()
    own = Journal(tmp_path, 6, segment_bytes=SEGMENT)
    Shipper(own, store, Known({1: "answers"}), clock).step()
    assert logged(store).next == {5: 201}
    assert logged(store).gaps == 0
    own.close()


def test_what_a_dead_process_shipped_last_is_looked_for_before_its_folder_goes(
    tmp_path: Path, store: Faulty, clock: FakeClock
) -> None:
    dead = Journal(tmp_path, 5, segment_bytes=SEGMENT)
    shipper = Shipper(dead, store, Known({1: "answers", 2: "other"}), clock)
    for round_ in range(4):
        dead.record_many(1, 1, 1, 0, bytes([round_]) * 50)
        dead.record(2, 1, 1, 0, 3)
        shipper.step()
    dead._folder.release()  # as its death does
    lose(store, "answers", 2)
    own = Journal(tmp_path, 6, segment_bytes=SEGMENT)
    adopting = Shipper(own, store, Known({1: "answers", 2: "other"}), clock)
    assert adopting.step() == 0
    assert (adopting.counts.adopted, adopting.counts.again) == (1, 100)
    assert logged(store).next == {5: 200}
    assert (logged(store).gaps, logged(store, "other").repeats) == (0, 0)
    own.close()
