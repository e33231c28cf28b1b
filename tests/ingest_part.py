"""Processes that read a source and are killed: python tests/ingest_part.py, with one JSON object a line on stdin.

Each line is a run: ``{"url", "kind", "settings", "step", "nth"}``. The run is a process of its own, forked from here
so that a hundred of them cost little; just before the nth time of ``step`` it sends itself SIGKILL. Without a step it
reads until nothing comes any more. The answer is a line with how it ended: a negative signal, or an exit code.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from typing import Any

from bandit.errors import StoreUnavailable
from server.clock import SystemClock
from server.ingest import SOURCES, settings
from server.ingest.base import SourceUnavailable
from server.ingest.pipeline import Pace, Pipeline
from server.ingest.watch import Watch
from server.snapshot import SnapshotKeeper
from server.store.redis import RedisStore
from tests.ingest_process import killing
from tests.ingesting import NAME, drain

PACE = Pace(poll_limit=500, poll_s=0.02, check_s=0.5, advance_s=0.05, publish_s=0.2)


def work(run: dict[str, Any]) -> None:
    """One run."""
    clock = SystemClock()
    store = RedisStore(run["url"], timeout_s=10.0)
    keeper = SnapshotKeeper(store, clock)
    keeper.poll()
    (chosen,) = settings.read([{"name": NAME, "kind": run["kind"], **run["settings"]}], SOURCES)
    source = SOURCES[chosen.kind].make(chosen, clock.now_ms)
    watch = Watch(NAME, chosen.kind, str(os.getpid()), clock.now_ms())
    told = killing(run["step"], run["nth"]) if run.get("step") else lambda _: None
    pipeline = Pipeline(chosen, source, store, keeper, clock, watch, pace=PACE, told=told)
    pipeline.open()
    for _ in range(100):
        with contextlib.suppress(
            SourceUnavailable, StoreUnavailable
        ):  # a starved server; a reader tries again
            drain(pipeline, quiet=run.get("quiet", 5))
            pipeline._end()
            return
    raise AssertionError("the server does not answer at all")


def main() -> None:
    """Run after run."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # logs go to stdout, which is for answers here
    for line in sys.stdin:
        run = json.loads(line)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                work(run)
                code = 0
            except BaseException:  # noqa: BLE001 - it must not go on as its parent
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        answers.write(f"{os.waitstatus_to_exitcode(status)}\n")
        answers.flush()


if __name__ == "__main__":
    main()
