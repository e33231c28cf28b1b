"""A machine that only reads: a real banditd of role ingest beside a store, killed, asked how it is, ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from server.store.embedded import Embedded
from server.store.redis import RedisStore
from tests.conftest import PATIENT_S
from tests.ingesting import World
from tests.service import descendants, free_port, until

PATIENCE_S = 90.0


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Embedded]:
    with Embedded(tmp_path / "kept") as embedded:
        yield embedded


class Reader:
    """banditd --role ingest, over a file and a stream."""

    def __init__(self, folder: Path, valkey: Embedded) -> None:
        self.lines = folder / "rewards.jsonl"
        self.http = f"127.0.0.1:{free_port()}"
        self._out = folder / "out"
        config = folder / "banditd.toml"
        config.write_text(
            f"""
role = "ingest"
store = "{valkey.url}"
data_dir = "{folder / "state"}"
http_listen = "{self.http}"
log_format = "json"

[[sources]]
name = "files"
kind = "jsonl"
path = "{folder}/rewards*.jsonl"
look_s = 0.05

[[sources]]
name = "events"
kind = "redis_stream"
url = "{valkey.url}"
stream = "rewards"
claim_s = 0.3
"""
        )
        clean = {name: value for name, value in os.environ.items() if not name.startswith("BANDITD_")}
        with self._out.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "server", "--config", str(config)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=clean, process_group=0,
            )  # fmt: skip

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self._out.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def until(self, met: Any, what: str) -> None:
        def or_ended() -> bool:
            assert self.process.poll() is None, self._out.read_text()[-3000:]
            return bool(met())

        until(or_ended, PATIENCE_S, what)

    def reading_pid(self) -> int:
        found = [pid for pid, command in descendants(self.process.pid).items() if "--child ingest" in command]
        return found[0] if found else 0

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://{self.http}/metrics", timeout=10) as reply:
            text: str = reply.read().decode()
            return text

    def ready(self) -> dict[str, Any]:
        try:
            with urllib.request.urlopen(f"http://{self.http}/readyz", timeout=10) as reply:
                found: dict[str, Any] = json.loads(reply.read())
                return found
        except OSError:
            return {"ready": False}


@pytest.mark.timeout(300)
def test_a_machine_that_only_reads(tmp_path: Path, valkey: Embedded) -> None:
    with (
        closing(RedisStore(valkey.url, timeout_s=PATIENT_S)) as store,
        closing(redis.Redis.from_url(valkey.url, protocol=2)) as client,
    ):
        world = World(store)
        reader = Reader(tmp_path, valkey)

        def send(count: int) -> None:
            with reader.lines.open("ab") as file:
                file.write(b"".join(body + b"\n" for body in world.good(count)))
            for body in world.good(count):
                client.xadd("rewards", {"event": body})

        try:
            send(50)
            reader.until(lambda: world.counted() == world.expected, "the first events are counted")
            reader.until(lambda: reader.ready()["ready"], "ready")
            assert {part["part"] for part in reader.ready()["parts"]} == {"store", "learner", "ingest"}
            first = reader.reading_pid()
            os.kill(first, signal.SIGKILL)
            send(50)
            reader.until(lambda: reader.reading_pid() not in (0, first), "started again")
            reader.until(lambda: world.counted() == world.expected, "the later events are counted")
            reader.until(lambda: 'banditd_source_up{source="files"} 1.0' in reader.metrics(), "told to be up")
            assert 'banditd_source_alarm{alarm="fails",source="files"} 0.0' in reader.metrics()
            reader.process.send_signal(signal.SIGTERM)
            assert reader.process.wait(PATIENCE_S) == 0
            (stopped,) = reader.logged("ingest_stopped")
            assert stopped["all_ended"] is True
            for source in ("files", "events"):
                assert world.ends(source)["applied"] == 100
            assert world.ends("files")["received"] == 100
        finally:
            if reader.process.poll() is None:
                reader.process.kill()
                reader.process.wait(60)
