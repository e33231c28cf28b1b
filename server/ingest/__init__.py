"""Kinds of sources of rewards, by the name they have in the configuration."""

from collections.abc import Mapping

from server.ingest import jsonl, kafka, nats, redis_stream
from server.ingest.base import Kind
from server.ingest.kafka_settings import KafkaSettings
from server.ingest.nats_settings import NatsSettings

SOURCES: Mapping[str, Kind] = {
    "jsonl": Kind(jsonl.Settings, jsonl.make),
    "kafka": Kind(KafkaSettings, kafka.make),
    "nats": Kind(NatsSettings, nats.make),
    "redis_stream": Kind(redis_stream.Settings, redis_stream.make),
}
