"""The HTTP pages: health, readiness and metrics to be read, and rewards to be sent. It looks at nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.web.events import Events
from server.web.probes import Row, State

INDEX = """banditd

/healthz   200 while this process is alive
/readyz    200 when every part that is needed here is up; the parts, one by one
/readyz/X  the same for one part: store, serving, learner
/metrics   for Prometheus
/v1/events POST rewards, as CloudEvents or plain JSON, where http_events is on
"""
HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


def application(
    rows: Callable[[], Sequence[Row]],
    render: Callable[[str], tuple[bytes, str]],
    events: Events | None = None,
) -> ASGIApp:
    """The pages. ``rows`` gives the parts as they are; ``render(accept)`` the metrics and their content type.

    ``events``: the page that takes rewards, None where nobody does.
    """

    async def index(_: Request) -> Response:
        return PlainTextResponse(INDEX)

    async def alive(_: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def ready(request: Request) -> Response:
        wanted = request.path_params.get("part")
        parts = [row for row in rows() if wanted in (None, row.part)]
        if not parts:
            return PlainTextResponse("no such part is looked at here; see /readyz\n", 404)
        needed = [row for row in parts if row.required or wanted]
        is_ready = bool(needed) and all(row.state is State.UP for row in needed)
        body = {"ready": is_ready, "parts": [_plain(row) for row in parts]}
        return JSONResponse(body, 200 if is_ready else 503)

    def metrics(request: Request) -> Response:
        body, content_type = render(request.headers.get("accept", ""))
        return Response(body, media_type=content_type)

    routes = [
        Route("/", index),
        Route("/healthz", alive),
        Route("/readyz", ready),
        Route("/readyz/{part}", ready),
        Route("/metrics", metrics),
    ]
    if events is not None:
        routes.append(Route("/v1/events", events.__call__, methods=["POST"]))
    return _Headers(Starlette(routes=routes))


def _plain(row: Row) -> dict[str, object]:
    return {**asdict(row), "age_s": None if row.age_s is None else round(row.age_s, 3)}


class _Headers:
    """Adds the security headers to every answer, errors too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._app(scope, receive, sending if scope["type"] == "http" else send)
