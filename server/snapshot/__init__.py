"""What a serving process decides from: what it is (``view``), how it stays right (``keeper``), its file (``shelf``)."""

from server.snapshot.halts import matters
from server.snapshot.keeper import SnapshotKeeper
from server.snapshot.shelf import Shelf
from server.snapshot.view import FRESH_S, LEASE_S, Entry, Mode, Snapshot

__all__ = ["FRESH_S", "LEASE_S", "Entry", "Mode", "Shelf", "Snapshot", "SnapshotKeeper", "matters"]
