"""Calls about sources of rewards: how they do, their dead letters, and taking back what one of them brought."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from bandit.client.pages import pages
from bandit.ids import experiment_resource, parse_name
from bandit.v1 import experiment_pb2, ingest_service_pb2, ingest_service_pb2_grpc

Reply = TypeVar("Reply")


class IngestCalls:
    """Part of ``Client``; see there for what every method may raise."""

    target: str
    _ingest: ingest_service_pb2_grpc.IngestServiceStub

    def _call(self, method: Callable[..., Reply], request: object) -> Reply:
        raise NotImplementedError

    def _signed(self) -> dict[str, Any]:
        raise NotImplementedError

    def sources(self) -> ingest_service_pb2.ListSourcesResponse:
        """How sources of rewards do."""
        return self._call(self._ingest.ListSources, ingest_service_pb2.ListSourcesRequest())

    def dead_letters(self, source: str = "", reason: str = "") -> Iterator[ingest_service_pb2.DeadLetter]:
        """Events that could not be counted, oldest first; of this source and reason, "" for any."""

        def page(token: str) -> ingest_service_pb2.ListDeadLettersResponse:
            request = ingest_service_pb2.ListDeadLettersRequest(
                source=source, reason=reason, page_token=token
            )
            return self._call(self._ingest.ListDeadLetters, request)

        return pages(page, lambda reply: reply.letters, self.target)

    def replay(
        self, source: str = "", reason: str = ""
    ) -> Iterator[ingest_service_pb2.ReplayDeadLettersResponse]:
        """Have dead letters read again, as :meth:`dead_letters` gives them; what became of each page."""

        def page(token: str) -> ingest_service_pb2.ReplayDeadLettersResponse:
            request = ingest_service_pb2.ReplayDeadLettersRequest(
                source=source, reason=reason, page_token=token
            )
            return self._call(self._ingest.ReplayDeadLetters, request)

        return pages(page, lambda reply: [reply], self.target)

    def remove_source(
        self,
        experiment: str,
        source: str,
        reason: str = "",
        *,
        since_ms: int | None = None,
        kept_only: bool = False,
        etag: str = "",
    ) -> ingest_service_pb2.RemoveSourceResponse:
        """Takes the events of a source back out of an experiment, and counts none until it is released.

        ``since_ms``: only those that the log took from then on, Unix ms. ``kept_only``: only those that are kept.
        """
        since = None
        if since_ms is not None:
            since = Timestamp()
            since.FromMilliseconds(since_ms)
        request = ingest_service_pb2.RemoveSourceRequest(
            name=experiment_resource(parse_name(experiment, "experiment")),
            source=source,
            since_time=since,
            kept_only=kept_only,
            reason=reason,
            etag=etag,
            **self._signed(),
        )
        return self._call(self._ingest.RemoveSource, request)

    def release_source(
        self, experiment: str, source: str, reason: str = "", etag: str = ""
    ) -> experiment_pb2.Experiment:
        """Counts the events of a removed source again that come from now on."""
        request = ingest_service_pb2.ReleaseSourceRequest(
            name=experiment_resource(parse_name(experiment, "experiment")),
            source=source,
            reason=reason,
            etag=etag,
            **self._signed(),
        )
        return self._call(self._ingest.ReleaseSource, request).experiment
