"""Is a topic still the one that was read? Offsets of one that was made again under its name mean other records.

A topic's id says it (Kafka 2.8 and later). Brokers without ids are told apart by their cluster's id, which notices a
cluster that was set up anew, not a single topic; for those, offsets that begin anew are all there is to see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bandit.errors import NotAllowed
from server.ingest.base import SourceUnavailable
from server.ingest.kafka_settings import KafkaSettings

if TYPE_CHECKING:
    from concurrent.futures import Future

    from confluent_kafka import Consumer

ANSWER_S = 10.0
_GLANCE_S = 1.0
_NO_ID = "AAAAAAAAAAAAAAAAAAAAAA"  # sixteen zero bytes, as ids are written


def client() -> ModuleType:
    """The Kafka client. Raises NotAllowed when it is not installed."""
    try:
        import confluent_kafka
    except ImportError as error:
        raise NotAllowed(
            f"a source of kind kafka needs the package confluent-kafka ({error}); install it with "
            "pip install 'banditd[kafka]', or leave the source out",
            reason="MISSING_PACKAGE",
        ) from None
    return confluent_kafka


class Topics:
    """Identities of topics, asked through a consumer (cluster) or a client of its own (topic). One thread."""

    def __init__(self, settings: KafkaSettings, kafka: ModuleType, consumer: Consumer) -> None:
        self._settings = settings
        self._kafka = kafka
        self._consumer = consumer
        self._admin: Any = None
        self._known: dict[str, str] = {}
        self._asked: dict[str, Future[Any]] = {}
        self._checked_ms = 0

    def exist(self) -> None:
        """Raises SourceUnavailable when the brokers do not answer, or do not have one of the topics."""
        for topic in self._settings.topics:
            try:
                found = self._consumer.list_topics(topic, timeout=ANSWER_S).topics[topic]
            except self._kafka.KafkaException as error:
                raise unavailable(self._settings, error) from None
            if found.error is not None:
                raise SourceUnavailable(
                    f"topic {topic}: {found.error.str()}; make it, or mend topics in the settings"
                )

    def identity(self, topic: str) -> str:
        """What tells this topic from one of the same name. Raises SourceUnavailable."""
        if topic not in self._known:
            try:
                if self._by_cluster:
                    self._known[topic] = str(self._consumer.list_topics(topic, timeout=ANSWER_S).cluster_id)
                else:
                    self._known[topic] = self._id_of(topic, self._ask([topic])[topic].result(2 * ANSWER_S))
            except (self._kafka.KafkaException, TimeoutError) as error:
                raise unavailable(self._settings, error) from None
        return self._known[topic]

    def forget(self, topic: str) -> None:
        """Ask anew when next asked."""
        self._known.pop(topic, None)

    def changed(self, now_ms: int) -> tuple[bool, list[str]]:
        """Did brokers answer since the last call, and topics that are not what they were. Asks every ``check_s``."""
        due = now_ms - self._checked_ms >= self._settings.check_s * 1000
        if self._by_cluster:
            if not due:
                return False, []
            self._checked_ms = now_ms
            return self._glance()
        done = {topic: self._asked.pop(topic) for topic, future in list(self._asked.items()) if future.done()}
        if due and self._known and not self._asked:
            self._checked_ms = now_ms
            self._asked = dict(self._ask(list(self._known)))
        # A topic that is away for a while may come back as it was, so a refusal says nothing.
        answered = {topic: future.result(0) for topic, future in done.items() if future.exception() is None}
        changed = [topic for topic, found in answered.items() if self._differs(topic, str(found.topic_id))]
        return bool(answered), changed

    @property
    def _by_cluster(self) -> bool:
        return self._settings.identity == "cluster"

    def _glance(self) -> tuple[bool, list[str]]:
        try:
            found = str(self._consumer.list_topics(self._settings.topics[0], timeout=_GLANCE_S).cluster_id)
        except self._kafka.KafkaException:
            return False, []
        return True, [topic for topic in list(self._known) if self._differs(topic, found)]

    def _differs(self, topic: str, found: str) -> bool:
        if self._known.get(topic, found) == found or found == _NO_ID:
            return False
        self.forget(topic)
        return True

    def _ask(self, topics: Sequence[str]) -> Mapping[str, Future[Any]]:
        if self._admin is None:
            from confluent_kafka.admin import AdminClient

            self._admin = AdminClient(self._settings.connection())
        asked: Mapping[str, Future[Any]] = self._admin.describe_topics(
            self._kafka.TopicCollection(list(topics)), request_timeout=ANSWER_S
        )
        return asked

    def _id_of(self, topic: str, described: Any) -> str:
        found = str(described.topic_id)
        if found == _NO_ID:
            raise SourceUnavailable(
                f"topic {topic}: these brokers give topics no ids, so one that is made again could not be told; set "
                'identity = "cluster"'
            )
        return found


def unavailable(settings: KafkaSettings, error: object) -> SourceUnavailable:
    """An error of the client as ours, without secrets."""
    text = f"Kafka at {', '.join(settings.servers)}: {error}"
    for _, value in settings.secrets:
        text = text.replace(value, "***") if value else text
    return SourceUnavailable(text)
