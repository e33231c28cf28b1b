"""What banditctl does without a server: validate, schema, completion, help; and that it starts quickly and cleanly."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bandit.client import Client
from bandit.ctl.exits import MEANING, Exit
from bandit.ctl.main import COMMANDS
from bandit.distribution import clash
from bandit.spec.parse import parse_yaml
from bandit.spec.schema import json_schema
from tests.double.command import PROGRAM, SPEC, Command, environment
from tests.double.server import Double

NOWHERE = Command("127.0.0.1:1")
BROKEN = SPEC.replace("cap: 0.5", "cap: 1.5").replace("guardrails:", "guardrial:")


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str, str]:
    """A right file, one with two mistakes, one that is not text."""
    for name, raw in (("right", SPEC.encode()), ("wrong", BROKEN.encode()), ("binary", b"a: b\nc: \xff\n")):
        (tmp_path / f"{name}.yaml").write_bytes(raw)
    right, wrong, binary = (str(tmp_path / f"{name}.yaml") for name in ("right", "wrong", "binary"))
    return right, wrong, binary


def test_a_right_file(files: tuple[str, str, str]) -> None:
    done = NOWHERE("validate", files[0])
    assert (done.code, done.out, done.err) == (0, f"{files[0]}: right\n", "")


def test_every_mistake_of_every_file_with_its_place(files: tuple[str, str, str]) -> None:
    right, wrong, binary = files
    done = NOWHERE("validate", wrong, right, binary, "/nowhere/x.yaml")
    assert done.code == 3
    assert done.out == f"{right}: right\n"
    lines = done.err.splitlines()
    assert lines[0].startswith(f"{wrong}:5:")
    assert "arms.1.bounds.cap" in lines[0]
    assert lines[1].startswith(f"{wrong}:11:1: guardrial: ")
    assert lines[2].startswith(f"{binary}:2:4: byte 0xff is not UTF-8")
    assert lines[3].startswith("/nowhere/x.yaml cannot be read")
    assert len(lines) == 4


@pytest.mark.parametrize("command", [["validate"], ["rehearse", "-f"]])
def test_what_has_no_end_is_no_spec(command: list[str]) -> None:
    """Somebody names a device, or pipes the wrong file."""
    done = NOWHERE(*command, "/dev/zero")
    assert done.code == 3
    assert "/dev/zero has more than 4194304 bytes, which no spec has" in done.err


def test_mistakes_as_one_document(files: tuple[str, str, str]) -> None:
    done = NOWHERE("--json", "validate", *files)
    assert done.code == 3
    right, wrong, binary = done.document["files"]
    assert right == {"file": files[0], "valid": True, "errors": []}
    assert [(error["line"], error["field"]) for error in wrong["errors"]] == [
        (5, "arms.1.bounds.cap"),
        (11, "guardrial"),
    ]
    assert all(error["description"] and error["column"] > 0 for error in wrong["errors"])
    assert binary["errors"][0]["line"] == 2


def test_validate_reads_stdin() -> None:
    assert NOWHERE("validate", "-", stdin=SPEC).code == 0
    done = NOWHERE("validate", "-", stdin=BROKEN)
    assert done.code == 3
    assert done.err.startswith("<stdin>:5:")


def test_text_of_a_file_cannot_colour_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text('experiment: "\\e[31mred"\n')
    done = NOWHERE("validate", str(path))
    assert done.code == 3
    assert "\x1b" not in done.err


def test_the_schema_is_the_parsers() -> None:
    assert NOWHERE("schema").document == json_schema()
    assert NOWHERE("--json", "schema").document == json_schema()


def test_help_names_every_command_and_every_exit_code() -> None:
    for flag in ("--help", "-h"):
        done = NOWHERE(flag)
        assert done.code == 0
        words = done.out.split()
        assert set(COMMANDS) <= set(words)
        for code in Exit:
            assert f"{int(code):>3}  {MEANING[code].split(':')[0].split(',')[0]}" in done.out
        assert "..." not in done.out.replace("[ARGS]...", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    done = NOWHERE(name, "--help")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"Usage: banditctl {name}")


def test_without_a_command_it_shows_its_help() -> None:
    done = NOWHERE()
    assert done.code == 2
    assert "Exit codes:" in done.out


def test_the_version_is_the_distributions() -> None:
    assert NOWHERE("--version").out == f"banditctl, version {importlib.metadata.version('banditd')}\n"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom bandit.ctl.main import run\nrun(['--help'])\n"
        "print('LOADED', *{'grpc', 'google.protobuf', 'rich', 'pydantic', 'yaml', 'numpy', 'scipy', 'numba'}"
        " & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "LOADED"


def test_no_command_loads_a_numbers_library() -> None:
    code = (
        "import importlib, sys\nfrom bandit.ctl.main import COMMANDS\n"
        "import bandit.ctl.render, bandit.client.convert, bandit.spec.render, bandit.spec.schema\n"
        "for place in COMMANDS.values(): importlib.import_module('bandit.ctl.' + place.split(':')[0])\n"
        "print('LOADED', *{'numpy', 'scipy', 'numba'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "LOADED"


def test_help_loads_nothing_that_is_slow() -> None:
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('LOADED', *{'grpc', 'pydantic', 'rich', 'numpy'} & sys.modules.keys()))\n"
        "sys.argv = ['banditctl', '--help']\nfrom bandit.ctl.main import main\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1].strip() == "LOADED"


@pytest.mark.parametrize(("shell", "said"), [("bash", "complete"), ("zsh", "compdef"), ("fish", "complete")])
def test_completion_scripts(shell: str, said: str) -> None:
    done = NOWHERE("completion", shell)
    assert done.code == 0
    assert "_BANDITCTL_COMPLETE" in done.out
    assert said in done.out
    assert NOWHERE("--json", "completion", shell).document == {"shell": shell, "script": done.out[:-1]}


def test_the_bash_script_is_bash(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    script = tmp_path / "complete.bash"
    script.write_text(NOWHERE("completion", "bash").out)
    subprocess.run([bash, "-n", str(script)], check=True, timeout=30)


@pytest.fixture(scope="module")
def double() -> Iterator[Double]:
    with Double() as running:
        with Client(running.address) as client:
            client.create(parse_yaml(SPEC))
            client.create(parse_yaml(SPEC.replace("experiment: answers", "experiment: ranking")))
        yield running


def completed(server: str, *words: str) -> list[str]:
    """What bash is told for these words, the last one unfinished."""
    done = subprocess.run(
        PROGRAM,
        env=environment(
            server,
            _BANDITCTL_COMPLETE="bash_complete",
            COMP_WORDS=" ".join(("banditctl", *words)),
            COMP_CWORD=str(len(words)),
        ),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_names_are_completed_from_the_server(double: Double) -> None:
    assert completed(double.address, "sta") == ["start", "status"]
    assert completed(double.address, "status", "''") == ["answers", "ranking"]
    assert completed(double.address, "status", "ra") == ["ranking"]
    assert completed(double.address, "rollback", "answers", "n") == ["new"]
    assert completed(double.address, "promote", "answers", "''") == ["old", "new"]
    assert completed(double.address, "rollback", "nowhere", "n") == []
    assert completed(double.address, "completion", "z") == ["zsh"]
    assert completed("127.0.0.1:1", "--server", double.address, "get", "an") == ["answers"]
    assert completed(double.address, "reward", "--experiment", "answers", "--arm", "o") == ["old"]


def test_completion_without_a_server_is_empty_and_quick() -> None:
    began = time.monotonic()
    assert completed("127.0.0.1:1", "status", "a") == []
    assert time.monotonic() - began < 10


def test_the_linter_of_the_same_name_stops_the_start(tmp_path: Path) -> None:
    installed = tmp_path / "bandit-1.9.2.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: bandit\nVersion: 1.9.2\n")
    paths = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH", ""))))
    done = subprocess.run(
        [*PROGRAM, "--help"],
        env={**environment("127.0.0.1:1"), "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert "'bandit' 1.9.2" in done.stderr
    assert "pip uninstall bandit" in done.stderr


def test_no_linter_no_clash() -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    assert clash(missing) is None
    assert "1.2.3" in (clash(lambda name: "1.2.3") or "")
