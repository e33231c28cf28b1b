"""What is counted at the edge, and what a letter keeps of an event that nobody could count."""

from __future__ import annotations

from server.intake.codec import MOST_BODY_BYTES
from server.intake.sort import Fate, Sorted, counts_of, letter_of


def test_what_is_accepted_is_counted_where_it_is_folded() -> None:
    """The edge counts what ends there; the rest adds up to what was received only with the learner's counts."""
    fates = [Fate.ACCEPTED, Fate.LATE, Fate.DEAD, Fate.REJECTED, Fate.DEAD, Fate.ACCEPTED]
    counts = counts_of(Sorted(fate, None) for fate in fates)
    assert counts == {"received": 6, "late": 1, "dead": 2, "rejected": 1}
    assert counts_of([]) == {"received": 0}


def test_a_letter_holds_as_much_as_an_event_may_have_and_says_so() -> None:
    event = Sorted(Fate.DEAD, None, reason="TOO_LARGE", message="too long")
    headers = {f"h{number}": "x" * 5000 for number in range(100)}
    long = letter_of("s", event, b"y" * (MOST_BODY_BYTES + 1), headers, "p/1", 7)
    assert len(long.body) == MOST_BODY_BYTES
    assert f"the letter holds its first {MOST_BODY_BYTES} bytes" in long.message
    assert len(long.headers) <= 32
    assert max(len(text) for text in long.headers.values()) <= 512
    short = letter_of("s", event, b"y", {}, "p/2", 7)
    assert (short.body, short.message, short.place, short.time_ms) == (b"y", "too long", "p/2", 7)
