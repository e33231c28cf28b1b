"""Specs that mean harm or are merely huge: refused in bounded time, with bounded words."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bandit.errors import InvalidArgument
from bandit.spec.model import ExperimentSpec
from bandit.spec.parse import MAX_PROBLEMS, parse_yaml

GOOD = (Path(__file__).resolve().parents[1] / "fixtures" / "specs" / "support-answers.yaml").read_text()


def refused(text: str) -> list[str]:
    """The lines of the refusal of ``text``."""
    with pytest.raises(InvalidArgument) as caught:
        parse_yaml(text, "f")
    return str(caught.value).splitlines()


def test_messages_are_bounded_in_number_and_length() -> None:
    lines = refused(GOOD + "".join(f"key{index}: 1\n" for index in range(3000)))
    assert len(lines) == MAX_PROBLEMS + 1
    assert lines[-1] == f"f:{len(GOOD.splitlines()) + 201}:1: and 2800 more; mend these first"
    (line,) = refused(GOOD.replace("name: large", f"name: {'B' * 200_000}"))
    assert len(line) < 300


def test_size_is_counted_in_bytes() -> None:
    comment = "# " + "\u00e9" * 131_072 + "\n"
    assert len(comment) < 256 * 1024
    assert refused(GOOD + comment)[0].startswith(
        f"f:1:1: spec: at least {len(GOOD) + 262_147} bytes; a spec has at most 262144"
    )
    assert isinstance(parse_yaml(GOOD + comment[:100_000]), ExperimentSpec)


def test_windows_line_ends_and_byte_order_mark_are_taken() -> None:
    assert parse_yaml("\ufeff" + GOOD.replace("\n", "\r\n")) == parse_yaml(GOOD)
    assert refused(GOOD.replace("control: true", "control: 1").replace("\n", "\r\n"))[0].startswith(
        "f:11:14: "
    )


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + index)}: &{chr(98 + index)} [{', '.join([f'*{chr(97 + index)}'] * 9)}]\n"
    for index in range(20)
)


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        "[" * 200_000,
        "- " * 100_000,
        "? " * 100_000,
        "a: " + "1_" * 100_000 + "x",
        "experiment: " + "9" * 200_000,
        ":" * 200_000,
        "\t" * 200_000,
    ],
    ids=["aliases", "brackets", "dashes", "questions", "underscores", "digits", "colons", "tabs"],
)
def test_hostile_texts_are_refused_at_once(text: str) -> None:
    start = time.process_time()
    refused(text)
    # 0.5 to 35 ms on the development machine; the alias bomb 4 ms.
    assert time.process_time() - start < (0.05 if text is BOMB else 0.5)


def test_texts_of_very_many_values_are_not_read_to_their_end() -> None:
    text = "arms:\n" + "- {}\n" * 50_000
    assert refused(text) == ["f:19999:3: spec: more than 20000 values; a spec has far fewer: shorten it"]


def test_reading_is_quick() -> None:
    best = min(_seconds() for _ in range(20))
    # 0.9 ms on the development machine.
    assert best < 0.01


def _seconds() -> float:
    start = time.process_time()
    parse_yaml(GOOD)
    return time.process_time() - start
