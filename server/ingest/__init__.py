"""Kinds of sources of rewards, by the name they have in the configuration."""

from collections.abc import Mapping

from server.ingest import kafka
from server.ingest.base import Kind
from server.ingest.kafka_settings import KafkaSettings

SOURCES: Mapping[str, Kind] = {"kafka": Kind(KafkaSettings, kafka.make)}
