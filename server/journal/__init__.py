"""Exposures, kept by the serving process until the store has them."""

from server.journal.journal import Journal
from server.journal.shipper import Names, Shipper

__all__ = ["Journal", "Names", "Shipper"]
