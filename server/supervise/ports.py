"""Whether an address is really free, and keeping it; it answers no connection.

gRPC lets several processes listen on one port (SO_REUSEPORT), so a second banditd would start without a word and
take a part of the first one's calls. A socket that is bound but does not listen keeps such an address for us, takes
no connection, and lets our own serving processes in.
"""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

from bandit.errors import NotAllowed
from server.config import host_port

# Below the ports that systems give to outgoing connections, which would be in the way now and then.
_PICKED = (20_000, 32_000)
_TRIES = 200
_WILDCARDS = {"0.0.0.0", "::"}  # noqa: S104 - to recognise them, not to listen


class Reservation:
    """An address that is ours until ``close``; ``address`` has the port that was chosen."""

    def __init__(self, address: str, held: ExitStack) -> None:
        self.address = address
        self._held = held

    def close(self) -> None:
        """Let others have it."""
        self._held.close()

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def reserve(address: str, setting: str, *, keep: bool) -> Reservation:
    """Take HOST:PORT, or any free port of HOST for port 0.

    With ``keep`` the sockets stay bound (for processes that share the port); without, it is only seen to be free.
    Raises NotAllowed when somebody has it, or it is no address of this machine; ``setting`` names what to change.
    """
    host, port = host_port(address)
    for at in [port] if port else _some_ports():
        try:
            held = _bind(host, at, keep=keep)
        except OSError as error:
            if port == 0 and error.errno == errno.EADDRINUSE:
                continue
            raise _refusal(address, setting, error) from None
        return Reservation(f"{f'[{host}]' if ':' in host else host}:{at}", held)
    raise NotAllowed(
        f"{setting}: no free port was found for {address} in {_TRIES} tries", reason="PORT_TAKEN"
    )


def is_free(address: str) -> bool:
    """Could somebody listen there now?"""
    try:
        reserve(address, "address", keep=False).close()
    except NotAllowed:
        return False
    return True


def _some_ports() -> Iterator[int]:
    luck = random.SystemRandom()
    for _ in range(_TRIES):
        yield luck.randrange(*_PICKED)


def _bind(host: str, port: int, *, keep: bool) -> ExitStack:
    """Bind every address of the host, first as a plain server would. Raises OSError."""
    places = _places(host, port)
    with ExitStack() as stack:
        bound = 0
        for family, place in places:
            with _unless_missing(optional=len(places) > 1), socket.socket(family) as probe:
                # With it, connections that ended lately are no obstacle; a listener still is.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                _only_v6(probe)
                probe.bind(place)
                probe.listen(1)
                bound += 1
        if not bound:
            raise OSError(errno.EADDRNOTAVAIL, "no address of this machine")
        if keep:
            for family, place in places:
                with _unless_missing(optional=len(places) > 1):
                    held = stack.enter_context(socket.socket(family))
                    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                    _only_v6(held)
                    held.bind(place)
        return stack.pop_all()


def _places(host: str, port: int) -> list[tuple[int, Any]]:
    if host in _WILDCARDS:
        # gRPC takes either for both.
        return [(socket.AF_INET, ("0.0.0.0", port)), (socket.AF_INET6, ("::", port))]  # noqa: S104
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return [(family, place) for family, _, _, _, place in found]


@contextmanager
def _unless_missing(*, optional: bool) -> Iterator[None]:
    """Passes over a family that this machine does not have, when another is left."""
    try:
        yield
    except OSError as error:
        if not optional or error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            raise


def _only_v6(socket_: socket.socket) -> None:
    if socket_.family == socket.AF_INET6:
        socket_.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)


def _refusal(address: str, setting: str, error: OSError) -> NotAllowed:
    if error.errno == errno.EADDRINUSE:
        return NotAllowed(
            f"{setting}: {address} is taken by another process (another banditd?); stop that one, or give "
            f"another port (--{setting.replace('_', '-')} HOST:PORT, port 0 for any that is free)",
            reason="PORT_TAKEN",
            address=address,
        )
    if error.errno == errno.EACCES:
        return NotAllowed(f"{setting}: this user may not listen on {address}; give a port above 1023")
    return NotAllowed(
        f"{setting}: nobody can listen on {address} here ({error.strerror}); give an address of this machine"
    )
