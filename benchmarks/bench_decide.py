"""Decide through gRPC, held against a server that only echoes, in the same run.

    uv run python benchmarks/bench_decide.py [--rounds 5] [--seconds 3]

Servers run on core 0, one at a time under load; the load generator (grpc.aio, raw bytes), the learner and Valkey on
core 1. Rounds are interleaved and medians taken, so that other work on the machine meets all cases alike. CPU time
is that of the serving process alone, its journal and snapshot threads included. JSON to stdout, a table to stderr.

Cases: ``echo`` grpcio's sync server with eight threads, ``echo guarded`` the same inside banditd's server, ``decide``
the real thing; then one call at a time; then columns of 100 and 1000 units.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import grpc

from bandit.client import Client, ServerUnavailable
from bandit.errors import NotFound
from bandit.spec.model import ExperimentSpec
from bandit.spec.parse import parse_mapping
from bandit.v1 import decision_service_pb2 as pb
from benchmarks.service import Banditd, cpu_s, free_port, machine, pin, pinned

CONNECTIONS = 2
IN_FLIGHT = 32
COLUMN_CALLS = 4
REQUESTS = 4096
WARM_S = 1.0
READY_S = 30.0
DECIDE = "/bandit.v1.DecisionService/Decide"
BATCH = "/bandit.v1.DecisionService/DecideBatch"
ATTRIBUTES = {"plan": "pro", "language": "en", "region": "eu-west-1"}
# Bars of the design; a ratio below its bar is said, and fails nothing.
BARS = {
    "decide req/s over echo": (0.90, True),
    "decide p99 over echo": (1.25, False),
    "columns 100 decisions/s over echo": (25.0, True),
    "columns 1000 decisions/s over echo": (100.0, True),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of load: which server, which method, how many units a call and calls in flight a connection."""

    name: str
    server: str
    method: str
    units: int = 1
    in_flight: int = IN_FLIGHT
    connections: int = CONNECTIONS


@dataclass(slots=True)
class Rounds:
    """Measurements of a case, one entry a round."""

    calls_per_s: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)


CASES = (
    Case("echo", "echo", DECIDE),
    Case("echo guarded", "echo guarded", DECIDE),
    Case("decide", "banditd", DECIDE),
    Case("echo, one in flight", "echo", DECIDE, in_flight=1, connections=1),
    Case("decide, one in flight", "banditd", DECIDE, in_flight=1, connections=1),
    Case("columns 100", "banditd", BATCH, 100, COLUMN_CALLS),
    Case("columns 1000", "banditd", BATCH, 1000, COLUMN_CALLS),
)


def bench_spec() -> ExperimentSpec:
    """Five arms and a cohort, so that a decision reads an attribute."""
    return parse_mapping(
        {
            "experiment": "bench",
            "arms": [{"name": f"arm-{index}", "control": index == 0} for index in range(5)],
            "metrics": [{"name": "liked", "kind": "bernoulli", "direction": "maximize"}],
            "objective": [{"metric": "liked"}],
            "cohorts": {"attribute": "plan", "values": ["free", "pro"]},
        }
    )


def requests(case: Case) -> list[bytes]:
    """Requests as bytes, each with units of its own."""
    resource = "experiments/bench"
    if case.method == DECIDE:
        found = [
            pb.DecideRequest(experiment=resource, unit=f"session-{number:08d}", attributes=ATTRIBUTES)
            for number in range(REQUESTS)
        ]
        return [each.SerializeToString() for each in found]
    count = max(REQUESTS // case.units, 8)
    columns = [
        pb.DecideBatchRequest(
            experiment=resource,
            units=[f"session-{number * case.units + index:08d}" for index in range(case.units)],
            attributes=ATTRIBUTES,
        )
        for number in range(count)
    ]
    return [each.SerializeToString() for each in columns]


async def load(target: str, case: Case, payloads: Sequence[bytes], seconds: float) -> list[float]:
    """Keep the case's calls in flight for ``seconds``. Returns each call's time, s."""
    times: list[float] = []
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(target, options) for _ in range(case.connections)]
    ends = time.perf_counter() + seconds

    async def caller(call: Callable[..., Any], turn: int) -> None:
        step = case.connections * case.in_flight
        while (began := time.perf_counter()) < ends:
            await call(payloads[turn % len(payloads)])
            times.append(time.perf_counter() - began)
            turn += step

    try:
        calls: list[Callable[..., Any]] = [channel.unary_unary(case.method) for channel in channels]
        await asyncio.gather(
            *(
                caller(call, index * case.in_flight + each)
                for index, call in enumerate(calls)
                for each in range(case.in_flight)
            )
        )
    finally:
        for channel in channels:
            await channel.close()
    return times


def measure(
    target: str, pid: int, case: Case, payloads: Sequence[bytes], seconds: float, into: Rounds
) -> None:
    """One round of one case."""
    cpu, began = cpu_s(pid), time.perf_counter()
    times = sorted(asyncio.run(load(target, case, payloads, seconds)))
    passed, used = time.perf_counter() - began, cpu_s(pid) - cpu
    into.calls_per_s.append(len(times) / passed)
    into.cpu_us.append(used / len(times) * 1e6)
    into.p50_ms.append(times[len(times) // 2] * 1e3)
    into.p99_ms.append(times[int(len(times) * 0.99)] * 1e3)


@contextmanager
def echo(kind: str, cores: Sequence[int] | None) -> Iterator[tuple[str, int]]:
    """(target, pid) of an echo server."""
    target = f"127.0.0.1:{free_port()}"
    with pinned(cores):
        process = subprocess.Popen([sys.executable, "-m", "benchmarks.echo", target, kind])
    try:
        yield target, process.pid
    finally:
        process.terminate()
        process.wait(10)


def answers(target: str) -> str:
    """The arm that a real client gets; waits until there is an answer."""
    deadline = time.monotonic() + READY_S
    with Client(target) as client:
        while True:
            try:
                return client.decide("bench", "session-0", ATTRIBUTES).arm
            except (NotFound, ServerUnavailable):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)


def run(rounds: int, seconds: float) -> dict[str, Rounds]:
    """All cases in turn, ``rounds`` times."""
    cores = sorted(os.sched_getaffinity(0))
    serving, rest = (None, None) if len(cores) < 2 else (cores[:1], cores[1:])
    if rest is not None:
        os.sched_setaffinity(0, rest)
    with ExitStack() as stack:
        with pinned(cores):
            banditd = stack.enter_context(Banditd("--workers", "1"))
        server = banditd.one("--child serve")
        for pid in banditd.processes():
            if serving is not None and rest is not None:
                pin(pid, serving if pid == server else rest)
        targets = {
            "banditd": (banditd.target, server),
            "echo": stack.enter_context(echo("plain", serving)),
            "echo guarded": stack.enter_context(echo("guarded", serving)),
        }
        with Client(banditd.target, actor="bench") as client:
            client.create(bench_spec())
            client.start("bench")
        for name, (target, _) in targets.items():
            say(f"{name} answers {answers(target)}")
        payloads = {case.name: requests(case) for case in CASES}
        found = {case.name: Rounds() for case in CASES}
        for turn in range(-1, rounds):
            for case in CASES:
                target, pid = targets[case.server]
                into = Rounds() if turn < 0 else found[case.name]
                measure(target, pid, case, payloads[case.name], WARM_S if turn < 0 else seconds, into)
            say("warm" if turn < 0 else f"round {turn + 1} of {rounds}")
    return found


def summary(found: dict[str, Rounds]) -> dict[str, object]:
    """Medians, and ratios to the echo of the same run."""
    cases = {}
    for case in CASES:
        rounds = found[case.name]
        calls, cpu = median(rounds.calls_per_s), median(rounds.cpu_us)
        cases[case.name] = {
            "calls_per_s": round(calls, 1),
            "calls_per_s_min": round(min(rounds.calls_per_s), 1),
            "calls_per_s_max": round(max(rounds.calls_per_s), 1),
            "decisions_per_s": round(calls * case.units, 1),
            "cpu_us_per_decision": round(cpu / case.units, 2),
            "p50_ms": round(median(rounds.p50_ms), 3),
            "p99_ms": round(median(rounds.p99_ms), 3),
        }
    return {"cases": cases, "ratios": ratios(found)}


def ratios(found: dict[str, Rounds]) -> dict[str, dict[str, object]]:
    """Each round against the echo of the same round, then the median."""

    def over(case: str, base: str, of: str, times: float = 1.0) -> float:
        pairs = zip(getattr(found[case], of), getattr(found[base], of), strict=True)
        return round(float(median(times * one / other for one, other in pairs)), 3)

    values = {
        "decide req/s over echo": over("decide", "echo", "calls_per_s"),
        "decide req/s over echo guarded": over("decide", "echo guarded", "calls_per_s"),
        "decide CPU over echo": over("decide", "echo", "cpu_us"),
        "decide CPU over echo guarded": over("decide", "echo guarded", "cpu_us"),
        "decide p99 over echo": over("decide", "echo", "p99_ms"),
        "decide p50 over echo, one in flight": over("decide, one in flight", "echo, one in flight", "p50_ms"),
        "columns 100 decisions/s over echo": over("columns 100", "echo", "calls_per_s", 100),
        "columns 1000 decisions/s over echo": over("columns 1000", "echo", "calls_per_s", 1000),
    }
    judged: dict[str, dict[str, object]] = {}
    for name, value in values.items():
        judged[name] = {"value": value}
        if name in BARS:
            bar, above = BARS[name]
            judged[name] |= {"bar": bar, "met": value >= bar if above else value <= bar}
    return judged


def say(line: str) -> None:
    """Progress, on stderr."""
    sys.stderr.write(f"bench_decide: {line}\n")


def table(found: dict[str, object]) -> str:
    """The summary for people."""
    cases, judged = found["cases"], found["ratios"]
    assert isinstance(cases, dict)
    assert isinstance(judged, dict)
    lines = [
        f"{'':24}{'calls/s':>10}{'min-max':>18}{'decisions/s':>14}{'CPU us':>9}{'p50 ms':>9}{'p99 ms':>9}"
    ]
    for name, each in cases.items():
        spread = f"{each['calls_per_s_min']:,.0f}-{each['calls_per_s_max']:,.0f}"
        lines.append(
            f"{name:24}{each['calls_per_s']:>10,.0f}{spread:>18}{each['decisions_per_s']:>14,.0f}"
            f"{each['cpu_us_per_decision']:>9.1f}{each['p50_ms']:>9.2f}{each['p99_ms']:>9.2f}"
        )
    for name, each in judged.items():
        bar = f"  (bar {each['bar']:g}: {'met' if each['met'] else 'NOT met'})" if "bar" in each else ""
        lines.append(f"{name:40}{each['value']:>10.2f}{bar}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description="Decide through gRPC, held against an echo.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each case in each round")
    options = parser.parse_args()
    described = machine("grpcio", "protobuf")
    found: dict[str, object] = {
        "machine": described,
        "rounds": options.rounds,
        "seconds": options.seconds,
        **summary(run(options.rounds, options.seconds)),
    }
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    sys.stderr.write(table(found))


if __name__ == "__main__":
    main()
