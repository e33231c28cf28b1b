"""A log replayed through the real service: decisions, rewards and clicks are counted exactly, arm by arm."""

from __future__ import annotations

import json

import pytest

from benchmarks.replay_obd import main, read_rows
from tests.synthetic_log import ITEMS, PATH, ROWS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_the_ledger_equals_the_replays_own_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(PATH), "--rows-per-second", "0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["differences"] == []
    assert (found["rows"], found["arms"], found["decisions"]) == (ROWS, ITEMS, ROWS)
    # One row in eight matches by chance, whatever the shares: the log is uniform.
    assert abs(found["matched"] - ROWS / ITEMS) < 5 * (ROWS / ITEMS * (1 - 1 / ITEMS)) ** 0.5
    assert found["rewards_accepted"] == found["matched"]
    assert 0 < found["clicks"] < found["matched"]
    clicks = sum(row.click for row in read_rows(PATH))
    assert found["logged_click_rate"] == clicks / ROWS
