"""The store on Redis or Valkey (6.2 or newer): one server, behind Sentinels, or a cluster; puts its parts together."""

from __future__ import annotations

from server.store import check
from server.store.cluster import open_link
from server.store.findings import Finding
from server.store.keys import NAMESPACE, Keys
from server.store.link import TIMEOUT_S
from server.store.redis_control import RedisControl
from server.store.redis_fed import RedisFed
from server.store.redis_ledger import RedisLedger


class RedisStore(RedisControl, RedisLedger, RedisFed):
    """A Store on one server or a cluster. Safe for several threads.

    ``url``: see ``places``. ``timeout_s`` bounds each wait for a server, s.
    Nothing is connected before the first call. Raises InvalidArgument for a URL that is none.
    """

    def __init__(self, url: str, *, namespace: str = NAMESPACE, timeout_s: float = TIMEOUT_S) -> None:
        RedisControl.__init__(self, open_link(url, timeout_s), Keys(namespace))

    def findings(self) -> list[Finding]:
        """See ControlStore."""
        return check.findings(self._link)

    def close(self) -> None:
        """See ControlStore."""
        self._link.close()
