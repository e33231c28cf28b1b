"""``POST /v1/events``: rewards over HTTP, as CloudEvents (structured, binary, batches) or as plain JSON.

A sender may name itself in the header ``banditd-source``; its events are counted under source ``http/NAME``.
Answers 202 when all was decided, each event with its outcome (accepted, late, rejected and why), and how safe the
accepted ones are; 400 for one event that is rejected, or what is no event at all; 408, 413 and 415 for what is too
slow, too large or of another type; 429 with Retry-After when one client sends too many; 503 with Retry-After when the
store did not take it: then all may be sent again, repeats are counted once.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from bandit.errors import InvalidArgument, Overloaded, StoreUnavailable
from server.intake.codec import (
    BATCH,
    MOST_BODY_BYTES,
    PROTOBUF,
    STRUCTURED,
    Arrived,
    Poison,
    decode,
    decode_batch,
    media_type,
)
from server.intake.door import Taken
from server.intake.sort import Fate
from server.rates import Rates

Take = Callable[[Sequence[Arrived | Poison], str], Taken]
"""Takes the events of a sender, see ``server.intake.senders``."""
SENDER = "banditd-source"
"""Header in which a sender names itself."""
MOST_BATCH_BYTES = 1 << 20
_MOST_DRAINED = 8 << 20
BODY_S = 10.0
RETRY_AFTER_S = 1
_TYPES = ("application/json", STRUCTURED, BATCH, *PROTOBUF)


class Events:
    """The page. ``take`` may wait for the store; it is called in a thread."""

    def __init__(self, take: Take, rates: Rates | None = None) -> None:
        self._take = take
        self._rates = rates

    async def __call__(self, request: Request) -> Response:
        """One POST."""
        headers = dict(request.headers)
        content = media_type(headers)
        # A page of another site can send a form or plain text without being asked, but none of these.
        if content not in _TYPES:
            return _refused(415, "UNKNOWN_CONTENT_TYPE", f"send one of {', '.join(_TYPES)}")
        if (encoding := headers.get("content-encoding", "identity")) != "identity":
            said = f"content-encoding {encoding[:40]!r} is not read here; send the body as it is"
            return _refused(415, "UNKNOWN_CONTENT_ENCODING", said)
        one = any(name.startswith("ce-") for name in headers) or content not in ("application/json", BATCH)
        most = MOST_BODY_BYTES if one else MOST_BATCH_BYTES
        try:
            body = await _body(request, most)
        except TimeoutError:
            return _refused(408, "TOO_SLOW", f"the body did not come within {BODY_S:g} s")
        if body is None:
            return _refused(413, "TOO_LARGE", f"more than {most} bytes; send fewer events at once")
        arrived: list[Arrived | Poison]
        try:
            if not one and (content == BATCH or body.lstrip()[:1] == b"["):
                arrived = decode_batch(body, content)
            else:
                one = True
                arrived = [decode(body, headers)]
        except Poison as error:
            if not one:
                return _refused(400, error.reason, str(error))
            arrived = [error]
        if self._rates is not None:
            try:
                self._rates.take(request.client.host if request.client else "unknown", len(arrived))
            except Overloaded as error:
                response = _refused(429, error.reason, str(error))
                response.headers["retry-after"] = str(math.ceil(float(error.metadata["retry_delay_s"])))
                return response
        return await self._answer(arrived, headers.get(SENDER, ""), one=one)

    async def _answer(self, arrived: Sequence[Arrived | Poison], sender: str, *, one: bool) -> Response:
        try:
            ended = await run_in_threadpool(self._take, arrived, sender)
        except InvalidArgument as error:
            return _refused(400, error.reason, str(error))
        except (StoreUnavailable, Overloaded) as error:
            response = _refused(503, error.reason, str(error))
            response.headers["retry-after"] = str(RETRY_AFTER_S)
            return response
        results = [
            {"outcome": each.fate.value, "reason": each.reason, "message": each.message} for each in ended
        ]
        bad = one and ended[0].fate is Fate.REJECTED
        durability = ended.safe.name.lower() if ended.safe else ""
        return JSONResponse({"results": results, "durability": durability}, 400 if bad else 202)


async def _body(request: Request, most: int) -> bytes | None:
    """The body; None when it is longer than ``most``. Raises TimeoutError when it does not come within ``BODY_S``.

    What was announced as a little too long is read and thrown away, so that the caller hears the answer.
    """
    said = request.headers.get("content-length", "")
    length = int(said[:20]) if said.isdecimal() else 0
    if length > _MOST_DRAINED:
        return None
    body = bytearray()
    async with asyncio.timeout(BODY_S):
        async for part in request.stream():
            if length > most:
                continue
            body += part
            if len(body) > most:
                return None
    return None if length > most else bytes(body)


def _refused(status: int, reason: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"reason": reason, "message": message}}, status)
