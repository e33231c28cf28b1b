"""Real processes that read a source are killed with SIGKILL at every step, on a real Valkey: nothing lost, none twice.

Events come one to five times, in any order, with twelve kinds of poison among
them. Sums, dead letters and accounts are compared with ``==`` with integers that this test counts itself.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from server.store.embedded import Embedded
from server.store.redis import RedisStore
from tests.conftest import PATIENT_S
from tests.ingesting import World, adds_up, poisons

PART = Path(__file__).resolve().parents[1] / "ingest_part.py"
STEPS = ("poll", "decode", "append", "bury", "acknowledge", "go on")


class Runs:
    """Starts runs one after the other."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(PART)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=PART.parents[1],
            env={"PYTHONPATH": str(PART.parents[1]), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        )

    def run(self, **what: Any) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.kill()
        self._process.wait(60)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Embedded]:
    with Embedded(tmp_path / "kept") as embedded:
        yield embedded


class Lines:
    """Where events of a kind go, and the settings that read it."""

    kind = "jsonl"

    def __init__(self, folder: Path, _: Embedded) -> None:
        self._path = folder / "rewards.jsonl"
        self.settings: dict[str, object] = {"path": str(self._path), "look_s": 0.01}

    def send(self, bodies: list[bytes]) -> None:
        with self._path.open("ab") as file:
            file.write(b"".join(body + b"\n" for body in bodies))


class Entries:
    """The same for a stream on the store's own server."""

    kind = "redis_stream"

    def __init__(self, _: Path, valkey: Embedded) -> None:
        self._client = redis.Redis.from_url(valkey.url, protocol=2)
        self.settings: dict[str, object] = {"url": valkey.url, "stream": "rewards", "claim_s": 0.2}

    def send(self, bodies: list[bytes]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for body in bodies:
            pipeline.xadd("rewards", {"event": body})
        pipeline.execute()


def mixed(world: World, count: int, bad_every: int) -> tuple[list[bytes], Counter[str]]:
    """Good events one to five times, shuffled near their place, and poison in between; reasons of the poison."""
    luck = random.Random(5)
    bodies: list[bytes] = []
    reasons: Counter[str] = Counter()
    kinds = poisons(world)
    for number, body in enumerate(world.good(count)):
        bodies += [body] * luck.choice((1, 1, 1, 2, 3, 5))
        if number % bad_every == bad_every - 1:
            reason, bad = kinds[(number // bad_every) % len(kinds)]
            bodies.append(bad.replace(b"\n", b" "))
            reasons[reason] += 1
    for start in range(0, len(bodies), 100):
        part = bodies[start : start + 100]
        luck.shuffle(part)
        bodies[start : start + 100] = part
    return bodies, reasons


@pytest.mark.parametrize(
    ("place", "partitions"),
    [(Lines, 1), (Entries, 1), (Lines, 3)],
    ids=["jsonl", "redis_stream", "jsonl into partitions"],
)
@pytest.mark.timeout(3600)
def test_kills_at_every_step_lose_and_double_nothing(
    place: type[Lines | Entries], partitions: int, tmp_path: Path, valkey: Embedded, full: bool
) -> None:
    count, kills, bad_every = (500_000, 50, 1000) if full else (3_000, 12, 100)
    with closing(RedisStore(valkey.url, timeout_s=PATIENT_S)) as store, closing(Runs()) as runs:
        world = World(store, partitions=partitions)
        ground = place(tmp_path, valkey)
        bodies, reasons = mixed(world, count, bad_every)
        luck = random.Random(7)
        share = -(-len(bodies) // kills)
        met: Counter[str] = Counter()
        for number in range(kills):
            ground.send(bodies[number * share : (number + 1) * share])
            step = STEPS[number % len(STEPS)]
            what = {"url": valkey.url, "kind": ground.kind, "settings": ground.settings, "step": step}
            ended = runs.run(**what, nth=luck.randint(1, 2), quiet=2)
            assert ended in (-signal.SIGKILL, 0)
            met[step] += ended == -signal.SIGKILL
        assert runs.run(url=valkey.url, kind=ground.kind, settings=ground.settings) == 0
        assert all(met[step] >= max(kills // 12, 1) for step in STEPS), met
        assert world.counted() == world.expected
        ends = world.ends()
        assert adds_up(ends)
        assert (ends["applied"], ends["dead"]) == (count, sum(reasons.values()))
        letters = [letter for page in _pages(store) for letter in page]
        assert Counter(letter.reason for letter in letters) == reasons
        if (
            ground.kind == "jsonl"
        ):  # it has an order, so repeats of the source are told from those of the sender
            assert ends["received"] == len(bodies)


def _pages(store: RedisStore) -> Iterator[list[Any]]:
    after = ""
    while page := store.letters(after, 500):
        yield page
        after = page[-1].id
