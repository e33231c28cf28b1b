"""The table of pitfalls names tests that exist, and leaves no pitfall out."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
ROWS = [line.split("|") for line in (HERE / "README.md").read_text().splitlines() if line.startswith("| ")]
STATISTICS = (1, 2, 3, 5, 7, 9, 11, 12, 14, 15, 16, 18, 20, 22)
GUARDRAILS = (202, 203, 205, 207, 208, 209, 211, 212, 214, 215, 216, 217, 220, 221)
CASES = [f"C{number:03}" for number in (*STATISTICS, *GUARDRAILS)]


def test_every_pitfall_and_case_has_its_row_and_a_test() -> None:
    named = {row[1].strip(): re.findall(r"`([^`]+)`", row[3]) for row in ROWS}
    assert [each for each in named if each not in ("no", "case")] == [*map(str, range(1, 42)), *CASES]
    assert all(tests for each, tests in named.items() if each not in ("no", "case"))


def test_every_test_of_the_table_exists() -> None:
    for row in ROWS:
        for name in re.findall(r"`([^`]+)`", row[3]):
            path, _, function = name.partition("::")
            text = (HERE.parent / path).read_text()
            assert re.search(rf"^def {function}\(", text, re.MULTILINE), name
