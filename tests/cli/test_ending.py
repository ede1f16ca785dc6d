"""How a command ends that is not let finish: by a signal, or by whoever reads what it shows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

from equiquant import api
from equiquant.cli import main


def test_termination_ends_the_command_as_an_error_does(model: Path, data: Path, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from equiquant import api; from equiquant.cli import main\n"
        "api.quantize = lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM)\n"
        "try: main(sys.argv[1:])\n"
        "finally: print('tidied')"
    )
    words = ["quantize", str(model), "-o", str(tmp_path / "out.onnx"), "--data", str(data)]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (143, "tidied\n")


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_amid_an_import_is_no_error_of_the_module(name: str, code: int, model: Path) -> None:
    program = (
        "import os, signal, sys; from equiquant import api; from equiquant.cli import main\n"
        "def inspect(*_, **__):\n"
        f"    try: os.kill(os.getpid(), signal.{name})\n"
        "    except BaseException as error: raise ImportError('initialization failed') from error\n"
        "api.inspect = inspect; sys.exit(main(sys.argv[1:]))"
    )
    words = [sys.executable, "-c", program, "inspect", str(model)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, "interrupted\n" if name == "SIGINT" else "")


@pytest.mark.parametrize(
    ("words", "file"),
    [
        (["--stats", "s.npz"], "s.npz.partial"),
        (["--stats", "s.npz"], "s.npz"),
        (["--preset", "auto"], "o.onnx.trials.json"),
        (["--auto", "--trials", "t.json"], "t.json"),
    ],
)
@pytest.mark.parametrize("kept", [False, True])
def test_an_interrupted_command_goes_on_only_from_a_file(
    words: list[str],
    file: str,
    kept: bool,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(model.parent)
    monkeypatch.setattr(api, "quantize", stopped)
    monkeypatch.setattr(api, "search", stopped)
    if kept:
        Path(file).touch()
    assert main(["quantize", str(model), "-o", "o.onnx", *words]) == 130
    assert ("the same command goes on from there" in capsys.readouterr().err) is kept


def test_a_pipe_that_cannot_show_an_arrow_gets_a_question_mark(model: Path, data: Path, tmp_path: Path) -> None:
    words = ["quantize", str(model), "-o", str(tmp_path / "out.onnx"), "--data", str(data)]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "equiquant", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert "?" in done.stdout


def test_json_keeps_names_that_a_pipe_cannot_encode(model: Path) -> None:
    named = onnx.load(model)
    named.graph.node[0].name = "\N{CJK UNIFIED IDEOGRAPH-5C42}"
    onnx.save(named, model)
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    command = [sys.executable, "-m", "equiquant", "inspect", str(model), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "\N{CJK UNIFIED IDEOGRAPH-5C42}" in [layer["name"] for layer in json.loads(done.stdout)["outlook"]["layers"]]


@pytest.mark.skipif(os.name != "posix", reason="closes a file descriptor in a shell")
def test_nothing_is_shown_where_standard_output_is_closed(model: Path) -> None:
    command = [sys.executable, "-m", "equiquant", "inspect", str(model), "--brief"]
    done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("shown", [[], ["--json"]])
def test_a_reader_that_has_seen_enough_is_no_failure(model: Path, shown: list[str]) -> None:
    command = [sys.executable, "-m", "equiquant", "inspect", str(model), "--brief", *shown]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as reading:
        assert reading.stdout
        assert reading.stderr
        reading.stdout.close()
        assert (reading.stderr.read(), reading.wait()) == (b"", 0)


def test_the_callers_signals_are_left_alone(model: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    assert main(["inspect", str(model), "--brief"]) == 0
    assert signal.getsignal(signal.SIGINT) is before
