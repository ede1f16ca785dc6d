"""Names on the terminal are shown as they are, but for what a terminal would obey."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from equiquant.cli import main
from equiquant.cli.lines import LineConsole, LineTable, Name
from tests.cli.test_outlook import DATA, UNEVEN, network

WIDE = "".join(map(chr, range(0x5C42, 0x5C42 + 20)))  # of letters that take two columns
QUIRKS = ("feat[bold]", "out[/x]", "y:on:z")


def renamed(path: Path, first: str, output: str) -> Path:
    """Give a network's first node, its result and the network's output other names."""
    model = onnx.load(network(path, UNEVEN))
    model.graph.node[0].name = model.graph.node[0].output[0] = model.graph.node[1].input[0] = first
    model.graph.node[2].output[0] = model.graph.output[0].name = output
    onnx.save(model, path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> str:
    np.save(tmp_path / "x.npy", DATA)
    return str(tmp_path / "x.npy")


@pytest.mark.parametrize("name", QUIRKS)
def test_no_markup_is_read_from_names(name: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, quantized = str(renamed(tmp_path / "m.onnx", name, f"{name}.y")), str(tmp_path / "q[red].onnx")
    assert main(["inspect", model, "--data", data]) == 0
    assert main(["quantize", model, "-o", quantized, "--data", data]) == 0
    shown = capsys.readouterr().out
    assert name in shown
    assert f"{name}.y" in shown
    assert quantized in shown
    assert main(["compare", model, quantized, "--data", data]) == 0
    assert f"{name}.y" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("width", "shown"), [(80, WIDE), (9, f"{WIDE[:2]}…{WIDE[-2:]}"), (8, f"{WIDE[:1]}…{WIDE[-2:]}"), (1, "…")]
)
def test_a_wide_name_is_cut_to_the_columns_there_are(width: int, shown: str) -> None:
    file = io.StringIO()
    console = LineConsole(width=width, file=file)
    table = LineTable(box=None, show_header=False, padding=0)
    table.add_row(Name(WIDE))
    console.print(table)
    assert file.getvalue().strip() == shown


def test_names_send_no_commands_to_the_terminal(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(renamed(tmp_path / "m.onnx", "e\x1b[31mred\n", "y\x9b2J\r"))
    quantized = str(tmp_path / "q.onnx")
    assert main(["inspect", model, "--data", data]) == 0
    assert main(["quantize", model, "-o", quantized, "--data", data]) == 0
    assert main(["compare", model, quantized, "--data", data]) == 0
    assert main(["quantize", model, "-o", quantized, "--data", data, "--set", 'nodes_to_exclude=["\x1b[2J"]']) == 1
    shown = capsys.readouterr()
    assert "e\N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER}" in shown.out
    assert "\N{REPLACEMENT CHARACTER}" in shown.err
    assert not set("\x1b\x9b\r") & set(shown.out + shown.err)


def test_a_locale_without_an_arrow_gets_a_question_mark(data: str, tmp_path: Path) -> None:
    model = str(network(tmp_path / "m.onnx", UNEVEN))
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "equiquant", "quantize", model, "-o", str(tmp_path / "q.onnx"), "--data", data]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | plain)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert "?" in done.stdout
