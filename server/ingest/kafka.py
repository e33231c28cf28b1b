"""Rewards from Kafka topics, at least once: nothing is committed before the pipeline says that it is safe.

The consumer is told by us where to begin in each partition (``kafka_places``), never by a reset of its own, so nothing
is skipped in silence. A commit that is refused because the group moved on is normal and counted: its records come
again to whoever has the partition, and are dropped by their position.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

import structlog

from bandit.errors import InvalidArgument
from server.ingest.base import Chosen, Recall, Received, RewardSource, SourceState, SourceUnavailable
from server.ingest.kafka_parts import Part, Partition, headers_of, place_of
from server.ingest.kafka_places import Committed, Ends, Start, again, start
from server.ingest.kafka_settings import KafkaSettings
from server.ingest.kafka_topics import ANSWER_S, Topics, client, unavailable
from server.store.fed import Position

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

log = structlog.get_logger(__name__)

_SLICE_S = 0.1


class KafkaSource:
    """See RewardSource. ``kafka`` is the client's module."""

    ordered = True

    def __init__(self, settings: KafkaSettings, now_ms: Callable[[], int], kafka: ModuleType) -> None:
        self._settings = settings
        self._now_ms = now_ms
        self._kafka = kafka
        self._cooperative = settings.assignment == "cooperative" and not settings.partitions
        self._line: tuple[Consumer, Topics] | None = None
        self._recall: Recall = lambda partition: ()
        self._parts: dict[Partition, Part] = {}
        self._held: list[Message] = []
        self._resting = self._joined = self._broken = False
        self._lap = self._committed_ms = 0
        self._trouble = ""
        self._lost = self._redelivered = self._refused = 0

    def open(self, recall: Recall) -> None:
        """See RewardSource."""
        self._recall = recall
        self._connect()

    def poll(self, limit: int, timeout_s: float) -> Sequence[Received]:
        """See RewardSource."""
        consumer, topics = self._line or self._connect()
        if self._resting:
            self._resting = False
            consumer.resume(consumer.assignment())
        found: list[Received] = []
        for _ in range(max(1, math.ceil(timeout_s / _SLICE_S))):
            self._watch(topics)
            self._place(consumer, topics)
            taken, self._held = self._held, []
            if not taken and (first := consumer.poll(min(timeout_s, _SLICE_S))) is not None:
                taken = [first]
            if taken and len(taken) < limit:
                taken += consumer.consume(limit - len(taken), 0)
            self._check()
            found = [each for message in taken if (each := self._received(message)) is not None]
            if found:
                break
        if self._now_ms() - self._committed_ms >= self._settings.commit_s * 1000:
            self._commit(consumer, self._parts.values())
        return found

    def done(self, batch: Sequence[Received]) -> None:
        """See RewardSource."""
        ends = {(each.position.partition, each.handle): each.position.offset + 1 for each in batch}
        for (name, lap), end in ends.items():
            topic, _, number = name.rpartition("/")
            part = self._parts.get((topic, int(number)))
            if part is None or part.lap != lap:
                self._refused += 1  # it went to another member meanwhile, or is read again
            else:
                part.safe = max(part.safe, end)

    def rest(self) -> None:
        """See RewardSource: the partitions are paused, and the group hears from us."""
        if self._line is None:
            return
        consumer, _ = self._line
        if not self._resting:
            self._resting = True
            consumer.pause(consumer.assignment())
        if (message := consumer.poll(0)) is not None:
            self._held.append(message)
        self._check()

    def rewind(self, to: Mapping[str, Sequence[Position]]) -> None:
        """See RewardSource."""
        if self._line is None:
            return
        consumer, _ = self._line
        changed = [part for part in self._parts.values() if part.name in to and part.epoch]
        for part in changed:
            begin, low = again(part.epoch, to[part.name]), self._ends(consumer, part).low
            part.known = max(part.known, part.next)
            part.next = low if begin is None else max(begin, low)
            part.lap = self._next_lap()
            log.warning("partition_rewound", partition=part.name, offset=part.next)
        if changed:
            again_from = {(part.topic, part.number) for part in changed}
            self._held = [each for each in self._held if place_of(each) not in again_from]
            self._read(consumer, changed)

    def state(self) -> SourceState:
        """See RewardSource."""
        lag = {}
        for part in self._parts.values():
            if part.epoch and self._line is not None:
                _, high = self._line[0].get_watermark_offsets(self._partition(part), cached=True)
                lag[part.name] = max(0, high - part.next)
        waiting = sorted(part.name for part in self._parts.values() if not part.epoch)
        detail = self._trouble
        if not detail and not self._joined:
            detail = f"is joining group {self._settings.group}"
        elif not detail and waiting:
            detail = f"looks where to begin in {', '.join(waiting[:5])}"
        return SourceState(not detail, detail, lag, self._lost, self._redelivered, self._refused)

    def close(self) -> None:
        """See RewardSource."""
        if self._line is not None:
            (consumer, _), self._line = self._line, None
            self._commit(consumer, self._parts.values())
            self._parts.clear()
            consumer.close()

    def _connect(self) -> tuple[Consumer, Topics]:
        settings = self._settings
        try:
            consumer = self._kafka.Consumer({**settings.consumer(), "error_cb": self._told})
        except self._kafka.KafkaException as error:
            raise InvalidArgument(str(self._unavailable(error)), reason="BAD_CONFIG") from None
        topics = Topics(settings, self._kafka, consumer)
        try:
            topics.exist()
        except SourceUnavailable:
            consumer.close()
            raise
        self._parts.clear()
        self._held.clear()
        self._resting = self._joined = self._broken = False
        self._trouble = ""
        self._line = consumer, topics
        if settings.partitions:
            self._joined = True
            self._own((topic, number) for topic in settings.topics for number in settings.partitions)
        else:
            consumer.subscribe(
                list(settings.topics),
                on_assign=self._on_assign,
                on_revoke=self._on_revoke,
                on_lost=self._on_lost,
            )
        return self._line

    def _check(self) -> None:
        """Raises SourceUnavailable when the client is beyond repair; the next call makes a new one."""
        if self._broken and self._line is not None:
            (consumer, _), self._line = self._line, None
            self._parts.clear()
            consumer.close()
            raise SourceUnavailable(self._trouble)

    # Membership. Callbacks run inside poll and note only: where to begin is asked outside, where it may fail.

    def _own(self, partitions: Iterable[Partition]) -> None:
        for topic, number in partitions:
            self._parts[topic, number] = Part(topic, number, self._next_lap())

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._joined, self._trouble = True, ""
        self._own((each.topic, each.partition) for each in partitions)
        if self._cooperative:
            consumer.incremental_assign([])
        else:
            consumer.assign([])
        log.info("partitions_assigned", partitions=[f"{each.topic}/{each.partition}" for each in partitions])

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._commit(consumer, self._ours(partitions))
        self._let_go(consumer, partitions)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._joined = False
        self._refused += sum(part.safe > part.told for part in self._ours(partitions))
        log.warning("partitions_lost", partitions=[f"{each.topic}/{each.partition}" for each in partitions])
        self._let_go(consumer, partitions)

    def _ours(self, partitions: Sequence[TopicPartition]) -> list[Part]:
        found = [self._parts.get((each.topic, each.partition)) for each in partitions]
        return [part for part in found if part is not None]

    def _let_go(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        if self._line is None:
            return  # it is being closed, and lets go of all by itself
        for part in self._ours(partitions):
            del self._parts[part.topic, part.number]
        if self._cooperative:
            going = {(each.topic, each.partition) for each in partitions}
            read = [each for each in consumer.assignment() if (each.topic, each.partition) in going]
            consumer.incremental_unassign(read)
        else:
            consumer.unassign()

    # Where to begin.

    def _watch(self, topics: Topics) -> None:
        answered, changed = topics.changed(self._now_ms())
        if answered:
            self._trouble = ""
        for part in self._parts.values():
            if part.topic in changed:
                self._renounce(part)

    def _renounce(self, part: Part) -> None:
        """Find out anew where to begin; what was read of it and is not safe yet is not acknowledged any more."""
        if self._line is not None:
            self._commit(self._line[0], [part])
        log.warning("partition_renounced", partition=part.name, epoch=part.epoch, offset=part.next)
        part.epoch, part.lap = "", self._next_lap()

    def _place(self, consumer: Consumer, topics: Topics) -> None:
        new = [part for part in self._parts.values() if not part.epoch]
        if not new:
            return
        begins: list[tuple[Part, Start]] = []
        commits = self._commits(consumer, new)
        for part in new:
            where = start(
                topics.identity(part.topic),
                commits[part.topic, part.number],
                self._recall(part.name),
                self._ends(consumer, part),
                latest=self._settings.begin == "latest",
            )
            begins.append((part, where))
        for part, where in begins:
            part.epoch, part.next, part.safe, part.known = (
                where.epoch,
                where.offset,
                where.offset,
                where.known,
            )
            part.told = -1 if where.commit else where.offset
            self._lost += where.lost
            log.info(
                "partition_begun", partition=part.name, epoch=part.epoch, offset=part.next, lost=where.lost
            )
        self._commit(consumer, [part for part, where in begins if where.commit])
        self._read(consumer, new)

    def _read(self, consumer: Consumer, changed: Sequence[Part]) -> None:
        """Go on in the changed partitions from their ``next``."""
        if self._cooperative:
            read = {(each.topic, each.partition) for each in consumer.assignment()}
            old = [self._partition(part) for part in changed if (part.topic, part.number) in read]
            if old:
                consumer.incremental_unassign(old)
            consumer.incremental_assign([self._partition(part, part.next) for part in changed])
        else:
            placed = [part for part in self._parts.values() if part.epoch]
            consumer.assign([self._partition(part, part.next) for part in placed])

    def _commits(self, consumer: Consumer, parts: Sequence[Part]) -> dict[Partition, Committed]:
        asked = [self._partition(part) for part in parts]
        try:
            found = consumer.committed(asked, timeout=ANSWER_S)
        except self._kafka.KafkaException as error:
            raise self._unavailable(error) from None
        for each in found:
            if each.error is not None:
                raise self._unavailable(each.error)
        return {
            (each.topic, each.partition): Committed(
                each.offset if each.offset >= 0 else None, each.metadata or ""
            )
            for each in found
        }

    def _ends(self, consumer: Consumer, part: Part) -> Ends:
        try:
            found = consumer.get_watermark_offsets(self._partition(part), timeout=ANSWER_S)
        except self._kafka.KafkaException as error:
            raise self._unavailable(error) from None
        return Ends(*found)

    # What comes and goes.

    def _received(self, message: Message) -> Received | None:
        if (error := message.error()) is not None:
            self._failed(message, error)
            return None
        part = self._parts.get(place_of(message))
        offset = message.offset()
        if part is None or not part.epoch or offset is None:
            return None
        if offset < part.next:
            # The log began anew under our feet: nothing of it is taken before we know what it is.
            self._renounce(part)
            return None
        part.next = offset + 1
        self._redelivered += offset < part.known
        return Received(
            message.value() or b"",
            Position(part.name, part.epoch, offset),
            headers_of(message),
            max(message.timestamp()[1], 0),
            part.lap,
        )

    def _failed(self, message: Message, error: KafkaError) -> None:
        codes = self._kafka.KafkaError
        if error.code() in (codes._AUTO_OFFSET_RESET, codes.OFFSET_OUT_OF_RANGE, codes._LOG_TRUNCATION):
            part = self._parts.get(place_of(message))
            if part is not None and part.epoch:
                self._renounce(part)
        elif error.code() == codes._MAX_POLL_EXCEEDED:
            self._joined = False
            log.warning("source_stalled", reason=error.str())
        elif error.code() != codes._PARTITION_EOF:
            self._told(error)

    def _told(self, error: KafkaError) -> None:
        if error.code() == self._kafka.KafkaError._TRANSPORT:
            return  # one connection of several; when all are down there is an error of its own
        sentence = str(self._unavailable(error.str()))
        if sentence != self._trouble:
            log.warning("source_troubled", code=error.name(), reason=sentence)
        self._trouble = sentence
        self._broken = self._broken or error.fatal()  # as when another process took the same member name

    def _commit(self, consumer: Consumer, parts: Iterable[Part]) -> None:
        """Tell the group what is safe. Never raises: what is refused comes again, to us or to another."""
        self._committed_ms = self._now_ms()
        going = {(part.topic, part.number): part for part in parts if part.epoch and part.safe > part.told}
        if not going:
            return
        offsets = [self._partition(part, part.safe, part.epoch) for part in going.values()]
        try:
            answers = consumer.commit(offsets=offsets, asynchronous=False) or []
        except self._kafka.KafkaException as error:
            self._refused += 1
            log.debug("commit_refused", reason=str(error))
            return
        for each in answers:
            if each.error is None:
                going[each.topic, each.partition].told = going[each.topic, each.partition].safe
            else:
                self._refused += 1
                log.info(
                    "commit_refused", partition=f"{each.topic}/{each.partition}", reason=each.error.str()
                )

    def _partition(self, part: Part, *offset_and_metadata: int | str) -> TopicPartition:
        found: TopicPartition = self._kafka.TopicPartition(part.topic, part.number, *offset_and_metadata)
        return found

    def _unavailable(self, error: object) -> SourceUnavailable:
        return unavailable(self._settings, error)

    def _next_lap(self) -> int:
        self._lap += 1
        return self._lap


def make(chosen: Chosen, now_ms: Callable[[], int]) -> RewardSource:
    """See ``base.Make``."""
    assert isinstance(chosen.settings, KafkaSettings)
    return KafkaSource(chosen.settings, now_ms, client())
