"""More than a server can take: waves past a limit, calls that are dropped, sockets that say nothing, streams reset."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import grpc
import pytest

from bandit.token import verify
from bandit.v1 import decision_service_pb2 as dpb
from bandit.v1 import reward_service_pb2 as rpb
from server.rpc.decisions import Decisions
from server.rpc.server import DEFAULT_LIMITS
from server.store.memory import MemoryStore
from tests.serving import Serving, code_of, put_running, serving, until

Code = grpc.StatusCode
NAMES = ("answers", "ranking", "search", "summaries")
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def asked(name: str, unit: str) -> dpb.DecideRequest:
    return dpb.DecideRequest(experiment=f"experiments/{name}", unit=unit)


def at_once(served: Serving, count: int, call: Callable[[], object]) -> list[grpc.StatusCode]:
    """How ``count`` calls end that start together."""
    gate = threading.Barrier(count)

    def one(_: int) -> grpc.StatusCode:
        gate.wait()
        return code_of(call)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def test_no_wave_gets_past_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    active, most, counting, gate = 0, 0, threading.Lock(), threading.Event()
    serve = Decisions._serving

    def held(self: Decisions) -> Any:
        nonlocal active, most
        with counting:
            active += 1
            most = max(most, active)
        gate.wait(60)
        with counting:
            active -= 1
        return serve(self)

    monkeypatch.setattr(Decisions, "_serving", held)
    store = MemoryStore()
    put_running(store)
    limits = replace(DEFAULT_LIMITS, decide_threads=4, decide_calls=2)
    with serving(store, limits=limits) as served:
        pool = next(each for each in served.server.pools if each.name == "decide")
        for wave in range(1, 5):
            gate.clear()
            opener = threading.Thread(target=lambda wave=wave: until_refused(pool, 18 * wave, gate))
            opener.start()
            codes = Counter(
                at_once(served, 20, lambda: served.decide.Decide(asked("answers", "u"), timeout=60))
            )
            opener.join()
            assert codes == {Code.OK: 2, Code.RESOURCE_EXHAUSTED: 18}
            until(lambda: pool.in_flight == 0, what="every call gone")
    assert most == 2


def until_refused(pool: Any, count: int, gate: threading.Event) -> None:
    """Open the gate once so many calls were refused."""
    try:
        until(lambda: pool.refused >= count, 60, f"{count} calls refused, not {pool.refused}")
    finally:
        gate.set()


def test_rewards_are_shed_and_decisions_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    put_running(store)
    gate, append = threading.Event(), store.append

    def slow(*arguments: Any) -> Any:
        gate.wait(60)
        return append(*arguments)

    limits = replace(DEFAULT_LIMITS, reward_threads=2, reward_calls=8)
    with serving(store, limits=limits) as served:
        token = served.decide.Decide(asked("answers", "u")).token
        event = rpb.RewardEvent(token=token, metric="satisfied", value=1)
        monkeypatch.setattr(store, "append", slow)
        pool = next(each for each in served.server.pools if each.name == "reward")
        decided: list[bool] = []

        def decide_then_open() -> None:
            until(lambda: pool.refused >= 32, 60, "32 calls refused")
            decided.extend(
                served.decide.Decide(asked("answers", f"u{index}"), timeout=30).counted
                for index in range(500)
            )
            gate.set()

        opener = threading.Thread(target=decide_then_open)
        opener.start()
        request = rpb.ReportRewardsRequest(events=[event])
        codes = Counter(at_once(served, 40, lambda: served.reward.ReportRewards(request, timeout=60)))
        opener.join()
    assert codes == {Code.OK: 8, Code.RESOURCE_EXHAUSTED: 32}
    assert decided == [True] * 500


def test_dropped_calls_shift_no_reply(full: bool) -> None:
    rounds = 25_000 if full else 1_000
    store = MemoryStore()
    uids = {put_running(store, name).experiment.uid: name for name in NAMES}
    dice = random.Random(5)
    with serving(store) as served:
        keys = served.keeper.snapshot
        assert keys is not None
        dropped = 0
        for number in range(rounds):
            calls = [(name, served.decide.Decide.future(asked(name, f"{name}-{number}"))) for name in NAMES]
            for name, call in calls:
                if dice.random() < 0.05:
                    call.cancel()
                    dropped += 1
                    continue
                claims = verify(keys.keys, call.result(timeout=60).token)
                assert uids[claims.experiment_uid] == name
        assert dropped > rounds // 10
        until(lambda: all(pool.in_flight == 0 for pool in served.server.pools if pool.name == "decide"))


def test_sockets_that_say_nothing_are_closed_and_starve_nobody(full: bool) -> None:
    many = 5_000 if full else 300
    store = MemoryStore()
    put_running(store)
    with serving(store, limits=replace(DEFAULT_LIMITS, handshake_s=2.0)) as served:
        idle = []
        try:
            for number in range(many):
                line = socket.create_connection(("127.0.0.1", served.port), timeout=60)
                line.sendall(PREFACE[: number % len(PREFACE)])
                idle.append(line)
            for number in range(200):
                assert served.decide.Decide(asked("answers", f"u{number}"), timeout=30).counted
            for line in idle:
                drain(line)
        finally:
            for line in idle:
                line.close()


def drain(line: socket.socket) -> None:
    """Read until the server closes the line; a timeout fails the test (gRPC itself waits a minute)."""
    line.settimeout(25)
    try:
        while line.recv(4096):
            pass
    except ConnectionResetError:
        pass


SETTINGS, PING, GOAWAY, ACK = 4, 6, 7, 1


def frame(kind: int, payload: bytes = b"", flags: int = 0) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + bytes(4) + payload


def frames(line: socket.socket) -> Iterator[tuple[int, bytes]]:
    """Kind and payload of each frame that comes, till the line is closed."""
    with line.makefile("rb") as file:
        while head := file.read(9):
            yield head[3], file.read(int.from_bytes(head[:3]))


def test_a_quiet_client_may_ask_whether_we_live_and_a_restless_one_is_sent_away() -> None:
    """Pings on a connection without calls: never more often than allowed, then as fast as they go."""
    store = MemoryStore()
    put_running(store)
    with (
        serving(store, limits=replace(DEFAULT_LIMITS, ping_every_s=0.2)) as served,
        socket.create_connection(("127.0.0.1", served.port), timeout=60) as line,
    ):
        line.sendall(PREFACE + frame(SETTINGS))
        heard = frames(line)
        for number in range(8):
            time.sleep(0.25)  # the least between two
            line.sendall(frame(PING, number.to_bytes(8)))
            kinds: list[tuple[int, bytes]] = []
            while not kinds or kinds[-1] != (PING, number.to_bytes(8)):
                kinds.append(next(heard))
            assert GOAWAY not in [kind for kind, _ in kinds]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(20):
                line.sendall(frame(PING, bytes(8)))
        away = next(payload for kind, payload in heard if kind == GOAWAY)
        assert away[8:] == b"too_many_pings"
        assert served.decide.Decide(asked("answers", "u"), timeout=30).counted


def test_streams_that_are_opened_and_reset_at_once_hold_nothing(full: bool) -> None:
    resets = 60_000 if full else 3_000
    store = MemoryStore()
    put_running(store)
    with serving(store) as served:
        for number in range(resets):
            call = served.decide.Decide.future(asked("answers", "u"))
            call.cancel()
            if number % 100 == 0:
                assert served.decide.Decide(asked("answers", f"u{number}"), timeout=30).counted
        until(lambda: all(pool.in_flight == 0 for pool in served.server.pools), 60, "every pool empty")
        assert served.decide.Decide(asked("answers", "after"), timeout=30).counted
