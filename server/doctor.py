"""``banditd doctor``: one table of what is right and wrong with a machine and its store; it changes nothing.

It looks with the settings, the rights and the folders of the server, also when no server runs; ``banditctl doctor``
asks a running one for the same rows. The learner looks at those of the store at its start and every half minute; a
fatal one forbids learning.
"""

from __future__ import annotations

import json
import sys

from bandit.ctl.findings import exit_code, table
from server.checks import machine
from server.config import EMBEDDED, Config
from server.store.findings import Finding

STORE_FOLDER = "store"


def run(config: Config, *, as_json: bool) -> int:
    """Print the findings. Returns 0 when all is right, 3 for warnings, 1 when something forbids learning."""
    rows = findings(config)
    code = exit_code(rows)
    if as_json:
        shown = [row._asdict() for row in rows]
        sys.stdout.write(json.dumps({"findings": shown, "exit_code": code}, indent=2) + "\n")
    else:
        sys.stdout.write(table(rows))
    return code


def findings(config: Config) -> list[Finding]:
    """Rows of the machine, then of the store."""
    return [*machine(config), *_store(config)]


def _store(config: Config) -> list[Finding]:
    from server.store.embedded import socket_of
    from server.store.redis import RedisStore

    url = config.store
    if url == EMBEDDED:
        folder = config.data_dir / STORE_FOLDER
        place = socket_of(folder)
        if place is None:
            seen = "embedded, and not running: its rows are looked at while banditd runs"
            return [Finding("store", seen, "banditd running, to look at it", True, False)]
        url = f"unix://{place}"
    store = RedisStore(url)
    try:
        return store.findings()
    finally:
        store.close()
