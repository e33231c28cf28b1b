"""Settings: precedence, every mistake at its place, no secret shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bandit.errors import InvalidArgument
from server.config import Config, handed_over, host_port, is_loopback, load, mask
from server.config.settings import SETTINGS, flag_of, variable_of


def faults(error: pytest.ExceptionInfo[InvalidArgument]) -> dict[str, str]:
    return {fault.field: fault.description for fault in error.value.violations}


def write(folder: Path, text: str) -> Path:
    path = folder / "banditd.toml"
    path.write_text(text)
    return path


def banditd(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BANDITD_")}
    return subprocess.run(
        [sys.executable, "-m", "server", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**clean, **environment},
    )


def test_flags_win_over_the_environment_which_wins_over_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, 'threads = 2\nworkers = 2\nstreams = 2\nlisten = "[::1]:1"\n')
    environment = {"BANDITD_THREADS": "3", "BANDITD_WORKERS": "3", "PATH": "/bin"}
    config, origins = load({"threads": "4"}, environment, file=file)
    assert (config.threads, config.workers, config.streams, config.listen) == (4, 3, 2, "[::1]:1")
    assert origins["threads"].place == "flag --threads"
    assert origins["workers"].place == "environment BANDITD_WORKERS"
    assert origins["streams"].place == "banditd.toml line 3"
    assert origins["poll_s"].place == "default"
    assert not origins["poll_s"].given


def test_the_environment_may_name_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, "threads = 2\n")
    assert load({}, {"BANDITD_CONFIG": str(file)}).config.threads == 2


def test_defaults_suit_one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/some/state")
    config = load({}, {}).config
    assert config.data_dir == Path("/some/state/banditd")
    assert (config.store, config.role, config.listen) == ("embedded", "all", "127.0.0.1:50061")
    assert config.workers >= 1
    assert not config.reflection
    assert not config.allow_plaintext
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert load({}, {}).config.data_dir == Path.home() / ".local/state/banditd"


@pytest.mark.parametrize("name", SETTINGS)
def test_each_setting_has_a_meaning_and_survives_the_way_to_a_child(name: str) -> None:
    assert SETTINGS[name].metadata["meaning"]
    config = load({}, {}).config
    assert getattr(handed_over(config.to_json()), name) == getattr(config, name)


def test_no_setting_has_a_name_that_is_passed_over() -> None:
    # PORT and SERVICE_* of the environment are those of a Kubernetes Service called banditd.
    for name in SETTINGS:
        with pytest.raises(InvalidArgument):
            load({}, {variable_of(name): "\0"})


def test_variables_of_a_kubernetes_service_are_no_settings() -> None:
    environment = {
        "BANDITD_SERVICE_HOST": "10.0.0.1",
        "BANDITD_SERVICE_PORT_GRPC": "50061",
        "BANDITD_PORT": "tcp://10.0.0.1:50061",
        "BANDITD_PORT_50061_TCP_ADDR": "10.0.0.1",
    }
    assert load({}, environment).config == load({}, {}).config


def test_unknown_keys_are_refused_with_the_nearest_and_their_place(tmp_path: Path) -> None:
    file = write(tmp_path, '# settings\n\nhttp-listen = "127.0.0.1:1"\n\n[server]\nthreads = 1\n')
    with pytest.raises(InvalidArgument) as error:
        load({}, {"BANDITD_WORKRES": "1"}, file=file)
    found = faults(error)
    assert set(found) == {"http-listen", "server", "BANDITD_WORKRES"}
    assert "banditd.toml line 3" in found["http-listen"]
    assert "did you mean http_listen?" in found["http-listen"]
    assert "banditd.toml line 5" in found["server"]
    assert "did you mean BANDITD_WORKERS?" in found["BANDITD_WORKRES"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("threads = 1\nthreads = 2\n", "line 2"),
        ("threads = \n", "line 1"),
    ],
)
def test_a_file_that_is_no_toml_is_refused_with_its_line(tmp_path: Path, text: str, part: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(InvalidArgument) as error:
        load({}, {}, file=file)
    assert "is no TOML" in faults(error)[str(file)]
    assert part in faults(error)[str(file)]


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument) as error:
        load({}, {}, file=tmp_path / "none.toml")
    assert "cannot be read" in str(error.value)


@pytest.mark.parametrize(
    ("name", "raw", "allowed"),
    [
        ("workers", "0", "a whole number from 1 to 256"),
        ("workers", "two", "a whole number from 1 to 256"),
        ("workers", 2.5, "a whole number from 1 to 256"),
        ("workers", True, "a whole number from 1 to 256"),
        ("workers", "9" * 5000, "a whole number from 1 to 256"),
        ("drain_s", "nan", "seconds from 0 to 600"),
        ("drain_s", -1, "seconds from 0 to 600"),
        ("drain_s", "ten", "seconds from 0 to 600"),
        ("reflection", "perhaps", "true or false"),
        ("reflection", 1, "true or false"),
        ("role", "leader", "one of all, serve, learn, ingest, web"),
        ("listen", "50061", "HOST:PORT"),
        ("listen", "::1:50061", "HOST:PORT"),
        ("listen", "localhost:70000", "HOST:PORT"),
        ("listen", "off", "HOST:PORT"),
        ("store", "postgres://h", "embedded, redis://"),
        ("store", "redis://", "embedded, redis://"),
        ("data_dir", "", "the path of a folder"),
        ("log_level", "loud", "one of debug"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(name: str, raw: object, allowed: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        load({name: raw}, {})
    assert allowed in faults(error)[name]
    assert flag_of(name) in faults(error)[name]


def test_all_mistakes_come_at_once(tmp_path: Path) -> None:
    file = write(tmp_path, "workers = 0\nrole = 3\n")
    with pytest.raises(InvalidArgument) as error:
        load({"threads": "x"}, {"BANDITD_TICK_S": "x"}, file=file)
    assert set(faults(error)) == {"workers", "role", "threads", "tick_s"}


@pytest.mark.parametrize("address", ["0.0.0.0:50061", "10.1.2.3:1", "[::]:1", "db-1:1", "example.org:443"])
def test_plaintext_beyond_this_machine_needs_to_be_allowed(address: str) -> None:
    for name in ("listen", "http_listen"):
        with pytest.raises(InvalidArgument) as error:
            load({name: address}, {})
        assert "without TLS" in faults(error)[name]
        assert "allow_plaintext" in faults(error)[name]
        assert getattr(load({name: address, "allow_plaintext": True}, {}).config, name) == address


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1"])
def test_loopback_is_always_allowed(address: str) -> None:
    assert is_loopback(address)
    assert load({"listen": address}, {}).config.listen == address


def test_two_servers_cannot_have_one_port() -> None:
    with pytest.raises(InvalidArgument, match="give it another port"):
        load({"listen": "127.0.0.1:7", "http_listen": "127.0.0.1:7"}, {})
    assert load({"listen": "127.0.0.1:0", "http_listen": "127.0.0.1:0"}, {})


def test_an_edge_that_is_off_is_no_role() -> None:
    assert load({"http_listen": "off"}, {}).config.http_listen == "off"
    with pytest.raises(InvalidArgument, match="role web"):
        load({"http_listen": "off", "role": "web"}, {})


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:SECRET@host:6379/0",
        "redis://:SECRET@host",
        "rediss://u:SE:CRET@x/SECRET@host",
        "rediss://host?password=SECRET&ssl_cert_reqs=none",
        "unix:///run/s?Token=SECRET",
        "redis:user:SECRET@host",
        "user:SECRET@host",
    ],
)
def test_no_secret_is_shown(url: str) -> None:
    assert "SECRET" not in mask(url)
    assert mask(url).endswith(("host", "none", "***", "6379/0"))
    config = Config(store=url)
    assert "SECRET" not in repr(config)
    assert "SECRET" not in json.dumps(config.shown())
    assert url in config.to_json()
    broken = url.replace("redis", "rebis").replace("unix", "uniks").replace("user:", "x:")
    with pytest.raises(InvalidArgument) as error:
        load({}, {"BANDITD_STORE": broken, "BANDITD_THREADS": "x"})
    assert "SECRET" not in str(error.value)


def test_a_password_on_the_command_line_is_refused() -> None:
    with pytest.raises(InvalidArgument) as error:
        load({"store": "redis://:SECRET@host"}, {})
    assert "list of processes" in str(error.value)
    assert "SECRET" not in str(error.value)
    assert load({"store": "redis://host/1"}, {}).config.store == "redis://host/1"
    assert load({}, {"BANDITD_STORE": "redis://:SECRET@host"}).config.store == "redis://:SECRET@host"


def test_host_port_takes_brackets_off() -> None:
    assert host_port("[::1]:50061") == ("::1", 50061)
    assert host_port("localhost:0") == ("localhost", 0)


def test_check_shows_the_settings_as_toml_without_secrets(tmp_path: Path) -> None:
    done = banditd(
        "--check", "--threads", "3", BANDITD_STORE="redis://u:SECRET@h", XDG_STATE_HOME=str(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    assert "SECRET" not in done.stdout
    assert "environment BANDITD_STORE" in done.stdout
    file = write(tmp_path, done.stdout)
    assert load({}, {}, file=file).config.threads == 3
    assert not list(tmp_path.glob("banditd"))  # it only looks


def test_check_ends_with_2_and_a_line_for_each_mistake() -> None:
    done = banditd("--check", "--threads", "x", "--listen", "nowhere")
    assert done.returncode == 2
    assert [line.split(":")[:2] for line in done.stderr.splitlines()] == [
        ["banditd", " threads"],
        ["banditd", " listen"],
    ]
    assert done.stdout == ""


def test_an_unknown_flag_has_a_nearest_one() -> None:
    done = banditd("--lissten", "127.0.0.1:1")
    assert done.returncode == 2
    assert "did you mean --listen?" in done.stderr


@pytest.mark.parametrize("arguments", [["--seconds", "3"], ["--exit"], ["--demo", "--check"], ["serve"]])
def test_flags_that_do_not_go_together_are_refused(arguments: list[str]) -> None:
    done = banditd(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("banditd: ")
    assert done.stderr.count("\n") == 1


def test_help_and_version_import_nothing_heavy() -> None:
    probe = """
import contextlib, io, sys
from server.__main__ import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main(sys.argv[1:])
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
    for flag in ("--help", "--version", "--check"):
        done = subprocess.run(
            [sys.executable, "-c", probe, flag], capture_output=True, text=True, timeout=60, check=True
        )
        heavy = {
            "numpy",
            "numba",
            "redis",
            "grpc",
            "structlog",
            "prometheus_client",
            "starlette",
            "rich",
            "click",
        }
        assert not heavy & set(done.stdout.split()), flag


def test_the_linter_of_the_same_name_stops_it(tmp_path: Path) -> None:
    folder = tmp_path / "bandit-1.9.4.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: bandit\nVersion: 1.9.4\n")
    done = banditd("--check", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "'bandit' 1.9.4" in done.stderr
    assert "pip uninstall bandit" in done.stderr
    assert done.stdout == ""
