"""Servers that speak nothing newer than TLS 1.1 are refused at every door that we knock at, and the error says why."""

from __future__ import annotations

import shutil
import socket
import ssl
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import pytest

from bandit.errors import InvalidArgument, StoreUnavailable
from server.clock import SystemClock
from server.ingest.base import SourceUnavailable
from server.ingest.kafka import KafkaSource
from server.ingest.kafka_settings import KafkaSettings
from server.ingest.kafka_topics import client
from server.ingest.nats import NatsSource
from server.ingest.nats_settings import NatsSettings
from server.store.redis import RedisStore
from tests.clusters import Tls

OLD = "DEFAULT:@SECLEVEL=0"


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    if shutil.which("openssl") is None:
        pytest.fail("openssl is not installed; run 'apt-get install openssl'")
    return Tls.made(tmp_path_factory.mktemp("tls"))


def old(context: ssl.SSLContext) -> ssl.SSLContext:
    """The context with TLS 1.1 and nothing else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers(OLD)
    return context


class OldServer:
    """Greets with TLS 1.1 whoever comes, after ``banner`` in the clear. ``greeted``: how many took it."""

    def __init__(self, tls: Tls, banner: bytes = b"") -> None:
        self.greeted = self.met = 0
        self._banner = banner
        self._context = old(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        self._context.load_cert_chain(tls.certificate, tls.key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.place = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        if self._listener.fileno() < 0:
            return
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(30)

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                met, _ = self._listener.accept()
                self.met += 1
                met.settimeout(5)
                with met, suppress(OSError):
                    met.sendall(self._banner)
                    with self._context.wrap_socket(met, server_side=True) as spoken:
                        self.greeted += 1
                        spoken.recv(1)


@pytest.fixture
def server(tls: Tls) -> Iterator[Callable[..., OldServer]]:
    made: list[OldServer] = []

    def make(banner: bytes = b"") -> OldServer:
        made.append(OldServer(tls, banner))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_the_server_of_these_tests_is_a_real_one(server: Callable[..., OldServer], tls: Tls) -> None:
    one = server()
    context = old(ssl.create_default_context(cafile=str(tls.authority)))
    host, port = one.place.split(":")
    with (
        socket.create_connection((host, int(port)), 10) as plain,
        context.wrap_socket(plain, server_hostname=host) as spoken,
    ):
        assert spoken.version() == "TLSv1.1"
    one.close()
    assert one.greeted == 1


@pytest.mark.parametrize("url", ["rediss://{}", "rediss+sentinel://{}/release", "rediss+cluster://{}"])
@pytest.mark.parametrize("more", ["", f"&ssl_ciphers={OLD}", f"&ssl_ciphers={OLD}&ssl_min_version=772"])
def test_no_store_is_spoken_to(server: Callable[..., OldServer], tls: Tls, url: str, more: str) -> None:
    one = server()
    with (
        closing(
            RedisStore(f"{url.format(one.place)}?ssl_ca_certs={tls.authority}{more}", timeout_s=5.0)
        ) as store,
        pytest.raises(StoreUnavailable) as told,
    ):
        store.names()
    if "sentinel" not in url:  # of these the client library says only that none answered
        assert "TLS 1.2 or newer" in str(told.value)
    assert (one.met > 0, one.greeted) == (True, 0)


@pytest.mark.parametrize("url", ["rediss://a:1?", "rediss+sentinel://a:1/s?", "rediss+cluster://a:1?"])
@pytest.mark.parametrize("least", ["768", "769", "770", "0", "-2"])
def test_no_url_asks_for_less(url: str, least: str) -> None:
    with pytest.raises(InvalidArgument, match=r"771 for TLS 1\.2"):
        RedisStore(f"{url}ssl_min_version={least}")


def test_no_server_of_nats_is_spoken_to(server: Callable[..., OldServer], tls: Tls) -> None:
    said = (
        b'INFO {"server_id":"a","version":"2.11.0","proto":1,"tls_required":true,"max_payload":1048576}\r\n'
    )
    one = server(said)
    settings = NatsSettings(servers=(f"tls://{one.place}",), stream="REWARDS", ca=str(tls.authority))
    with (
        closing(NatsSource(settings, SystemClock().now_ms)) as source,
        pytest.raises(SourceUnavailable, match=r"(?i)protocol"),
    ):
        source.open(lambda _: ())
    assert (one.met > 0, one.greeted) == (True, 0)


def test_no_broker_of_kafka_is_spoken_to(server: Callable[..., OldServer], tls: Tls) -> None:
    one = server()
    settings = KafkaSettings(
        servers=(one.place,),
        topics=("rewards",),
        identity="cluster",
        security="ssl",
        client=(("ssl.ca.location", str(tls.authority)),),
    )
    source = KafkaSource(settings, SystemClock().now_ms, client())
    with closing(source):
        with pytest.raises(SourceUnavailable, match=one.place):
            source.open(lambda _: [])
        assert "protocol version" in source.state().detail
    assert (one.met > 0, one.greeted) == (True, 0)
