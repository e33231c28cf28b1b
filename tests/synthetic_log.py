"""Writes tests/fixtures/obd_synthetic.csv: invented impressions in the form of the Open Bandit Dataset, of nobody.

Run it to write the file anew; a test holds the file to it.
"""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

PATH = Path(__file__).parent / "fixtures/obd_synthetic.csv"
ROWS, ITEMS = 400, 8
START = datetime(2019, 11, 24, tzinfo=UTC)


def synthetic() -> str:
    """400 rows of 8 items under a uniform policy; item k is clicked in (k + 1) * 6 % of its rows."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    features = [f"user_feature_{index}" for index in range(4)]
    writer.writerow(["timestamp", "item_id", "position", "click", "propensity_score", *features])
    for row in range(ROWS):
        item = _drawn(row, "item") % ITEMS
        click = _drawn(row, "click") % 100 < (item + 1) * 6
        stamp = START + timedelta(seconds=37 * row, microseconds=_drawn(row, "time") % 1_000_000)
        hashed = [_hash(f"{name} {_drawn(row, name) % 3}")[:32] for name in features]
        writer.writerow(
            [stamp.isoformat(sep=" "), item, _drawn(row, "position") % 3 + 1, int(click), 1 / ITEMS, *hashed]
        )
    return file.getvalue()


def _drawn(row: int, what: str) -> int:
    return int(_hash(f"{row} {what}")[:12], 16)


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()


if __name__ == "__main__":
    PATH.write_text(synthetic())
