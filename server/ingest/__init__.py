"""Kinds of sources of rewards, by the name they have in the configuration."""

from collections.abc import Mapping

from server.ingest.base import Kind

SOURCES: Mapping[str, Kind] = {}
