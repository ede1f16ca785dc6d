import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest

from equiquant import __version__, api
from equiquant.cli import main
from equiquant.errors import DataError
from tests.calibrate.support import trained


def test_without_data_the_summary_says_how_well_the_inputs_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "trained.onnx"
    ir.save(trained(), path)
    assert main(["quantize", str(path), "-o", str(tmp_path / "out.onnx")]) == 0
    shown = capsys.readouterr()
    assert "32 made-up inputs were moved" in " ".join(shown.out.split())
    assert "No calibration data" in shown.err


def test_quantize_writes_model_and_report(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, folder = tmp_path / "out.onnx", tmp_path / "report"
    code = main(["quantize", str(model), "-o", str(output), "--data", str(data), "--report", str(folder)])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    assert "QuantizeLinear" in {n.op_type for n in onnx.load(output).graph.node}
    assert json.loads((folder / "report.json").read_text())["recipe"]["name"] == "xint8"
    for word in ("model.onnx", "xint8", "Quality", "Size", str(output), "report.html"):
        assert word in shown.out, word
    assert "\x1b" not in shown.out + shown.err
    assert shown.err == ""


def test_without_data_a_warning_is_shown_even_when_quiet(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quantize", str(model), "-o", str(tmp_path / "o.onnx"), "-q"]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("warning: ")
    assert "data" in shown.err


def test_overrides_reach_the_api(model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[tuple[Any, dict[str, Any]]] = []

    def quantize(*args: Any, **kwargs: Any) -> None:
        calls.append((args, kwargs))
        raise DataError("enough")

    monkeypatch.setattr(api, "quantize", quantize)
    out = str(tmp_path / "o.onnx")
    assert main(["quantize", str(model), "-o", out, "--preset", "a8w8", "--no-cle", "--set", "seed=3"]) == 1
    ((args, kwargs),) = calls
    assert args == (str(model), out)
    assert callable(kwargs.pop("progress"))
    assert kwargs == {
        "data": None,
        "preset": "a8w8",
        "report_dir": None,
        "calibration_cache": None,
        "cle": False,
        "seed": 3,
    }


def test_compare_on_integers(model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.onnx"
    assert main(["quantize", str(model), "-o", str(output), "--data", str(data), "-q"]) == 0
    command = ["compare", str(model), str(output), "--data", str(data), "--integer"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    for word in ("Integers", "agrees", "0 in float", "y: 0 of 30 values differ"):
        assert word in shown, word
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["integer"]["agrees"] is True


def test_the_float_model_comes_first(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.onnx"
    assert main(["quantize", str(model), "-o", str(out), "--data", str(data), "-q"]) == 0
    assert main(["compare", str(out), str(model), "--data", str(data)]) == 1
    assert "give the float model first" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "width", "row"),
    [
        ("compare", 40, r"a_tenso…output_0  identical  Relu"),
        ("inspect", 80, r"network/f\S*…\S*/conv_1 +Conv +4/4 .*\d$"),
    ],
)
def test_narrow_tables_keep_their_figures_and_both_ends_of_a_name(
    command: str,
    width: int,
    row: str,
    model: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    named = onnx.load(model)
    named.graph.node[0].name = "network/features/stage1/conv_1"
    for node in named.graph.node:
        for names in (node.input, node.output):
            names[:] = ["a_tensor_with_a_rather_long_name/relu/output_0" if n == "r" else n for n in names]
    onnx.save(named, model)
    monkeypatch.setattr("equiquant.cli.console.UNLIMITED", width)
    models = [str(model)] * (2 if command == "compare" else 1)
    assert main([command, *models, "--data", str(data), "--worst", "3"]) == 0
    assert any(re.match(row, line.rstrip()) for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize(
    ("width", "titles"),
    [
        (66, ["Output", "SQNR", "Top-1 agreement", "Largest error", "Cosine"]),
        (60, ["Output", "SQNR", "Top-1 agreement", "Largest error"]),
        (45, ["Output", "SQNR", "Top-1 agreement"]),
        (28, ["Output", "SQNR"]),
    ],
)
def test_columns_without_room_are_left_out(
    width: int,
    titles: list[str],
    model: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("equiquant.cli.console.UNLIMITED", width)
    assert main(["compare", str(model), str(model), "--data", str(data)]) == 0
    head, row = (re.split("  +", line.strip()) for line in capsys.readouterr().out.splitlines()[:2])
    assert head == titles
    assert row == ["y", "identical", "100%", "0", "1.00000"][: len(titles)]


def test_a_float_model_has_no_integers(model: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(model), str(model), "--data", str(data), "--integer"]) == 1
    assert "no QuantizeLinear" in capsys.readouterr().err


def test_compare_fails_where_the_integers_disagree(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.onnx"
    assert main(["quantize", str(model), "-o", str(output), "--data", str(data), "-q"]) == 0
    monkeypatch.setattr("equiquant.verify.integer.exact.halve_to_even", lambda codes, bits: codes >> (bits + 1))
    assert main(["compare", str(model), str(output), "--data", str(data), "--integer"]) == 1
    assert "tensors disagree" in capsys.readouterr().out


def test_equalize_then_compare(model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "equalized.onnx"
    assert main(["equalize", str(model), "-o", str(output), "--cle-method", "pairwise", "--cle-steps", "2"]) == 0
    assert "still float" in capsys.readouterr().out
    assert main(["compare", str(model), str(output), "--data", str(data), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["samples"] == 6
    sqnr = float(figures["outputs"][0]["sqnr_db"])
    assert sqnr > 100
    assert main(["compare", str(model), str(output), "--data", str(data), "--worst", "1"]) == 0
    shown = capsys.readouterr().out
    assert "The 1 worst of" in shown
    assert "6 samples" in shown


def test_inspect(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(model)]) == 0
    shown = capsys.readouterr().out
    assert "x  float32  N \N{MULTIPLICATION SIGN} 3" in shown
    assert "2 Conv" in shown
    assert main(["inspect", str(model), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ops"]["Conv"] == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["inspect", "{tmp}/none.onnx"], "No such model file"),
        (["inspect", "{tmp}"], "is a folder"),
        (["quantize", "{model}", "-o", "{model}"], "is the input model"),
        (["quantize", "{model}", "-o", "{tmp}/no/such/folder.onnx"], "does not exist"),
        (["quantize", "{model}", "-o", "{tmp}/pipe"], "is not a regular file"),
        (["quantize", "{model}", "-o", "{tmp}/o.onnx", "--stats", "{tmp}/pipe"], "is not a regular file"),
        (["quantize", "{model}", "-o", "{tmp}/o.onnx", "--stats", "{tmp}/no/stats"], "does not exist"),
        (["quantize", "{model}", "-o", "{tmp}/o.onnx", "--stats", "{tmp}/words.npy"], "is no file of statistics"),
        (["quantize", "{model}", "-o", "{tmp}/o.onnx", "--stats", "{tmp}/o.onnx"], "a file of its own"),
        (["quantize", "{model}", "-o", "{tmp}/o.onnx", "--report", "{model}/r"], "is a file"),
        (["quantize", "{model}", "-o", "{tmp}/o.onnx", "--data", "{tmp}/words.npy"], "Cannot read {tmp}/words.npy"),
        (["quantize", "{model}", "-o", "{tmp}/o.onnx", "--set", "cle_step=1"], "Did you mean 'cle_steps'"),
        (["quantize", "{model}", "-o", "{tmp}/o.onnx", "--cle-steps", "0"], "CLESteps"),
        (["quantize", "{model}", "-o", "{tmp}/o.onnx", "--data", "{tmp}/none.npy"], "none.npy"),
        (["quantize", "{model}", "-o", "{tmp}/o.onnx", "--exclude-node", "conf"], "conv"),
        (["compare", "{model}", "{model}", "--data", "{tmp}/none"], "none"),
    ],
)
def test_a_refusal_is_one_line_and_1(
    words: list[str], says: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = model.read_bytes()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "words.npy").write_text("no numbers")
    assert main([w.format(model=model, tmp=tmp_path) for w in words]) == 1
    shown = capsys.readouterr()
    line = next(row for row in shown.err.splitlines() if not row.startswith("warning: "))
    assert line.startswith("error: ")
    assert says.format(tmp=tmp_path) in line
    assert "pickle" not in line
    assert "Traceback" not in shown.err
    assert shown.out == ""
    assert model.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "pipe", "words.npy"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "required: COMMAND"),
        (["quantise"], "invalid choice"),
        (["quantize", "m.onnx"], "-o/--output"),
        (["quantize", "m.onnx", "-o", "o.onnx", "--no-cla"], "Did you mean '--no-cle'"),
        (["quantize", "m.onnx", "-o", "o.onnx", "--histogram-bins=512"], "of its own: --set histogram_bins=512"),
        (["quantize", "m.onnx", "-o", "o.onnx", "--percentile", "99"], "of its own: --set percentile=VALUE"),
        (["quantize", "m.onnx", "-o", "o.onnx", "--cle"], "of its own: --set cle=VALUE"),
        (["quantize", "m.onnx", "-o", "o.onnx", "--target_sqnr", "20"], "Did you mean '--target-sqnr'?"),
        (["quantize", "m.onnx", "-o", "o.onnx", "--calibration_samples=8"], "Did you mean '--samples'?"),
        (["quantize", "m.onnx", "-o", "o.onnx", "--image.size", "8"], "Did you mean '--size'?"),
        (["quantize", "m.onnx", "-o", "o.onnx", "--preset", "xint"], "invalid choice"),
        (["quantize", "m.onnx", "-o", "o.onnx", "--cle-steps", "many"], "must be a whole number. Got 'many'"),
        (["quantize", "m.onnx", "-o", "o.onnx", "surplus"], "surplus"),
        (["compare", "a.onnx", "b.onnx"], "--data"),
    ],
)
def test_wrong_usage_is_2(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert says in capsys.readouterr().err


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for words, shown in (
        (["--version"], f"equiquant {__version__}"),
        (["--help"], "quantize"),
        (["demo", "-h"], "--output"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 0
        assert shown in capsys.readouterr().out


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (MemoryError(), 1)])
def test_interruption_and_exhaustion_are_one_line(
    error: BaseException, code: int, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def inspect(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(api, "inspect", inspect)
    assert main(["inspect", str(model)]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert ("interrupted" in shown.err) == (code == 130)


def test_a_bug_is_not_dressed_up_as_a_refusal(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def inspect(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(api, "inspect", inspect)
    with pytest.raises(ZeroDivisionError):
        main(["inspect", str(model)])


def test_help_needs_nothing_heavy() -> None:
    script = (
        "import sys, equiquant.cli as cli\n"
        "from equiquant.cli.parser import build_parser\n"
        "build_parser()\n"
        "heavy = {'onnx', 'onnx_ir', 'onnxruntime', 'scipy', 'numpy', 'rich', 'PIL'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_python_dash_m(model: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "equiquant", "inspect", str(model), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["parameters"] == 4 * 27 + 20


def test_progress_shows_samples_per_second_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    from equiquant.cli.console import ProgressBar

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with ProgressBar() as bar:
        bar("equalize", 0, None)
        for done in (1, 2, 3):
            bar("calibrate", done, 10)
        assert bar._progress is not None
        rates = [task.fields["rate"] for task in bar._progress.tasks]
    assert rates[0] == ""
    assert rates[1].endswith(" samples/s")
    with ProgressBar(quiet=True) as silent:
        silent("calibrate", 1, 10)
        assert silent._progress is None


def test_mixed_precision_and_latency_are_shown(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.onnx"
    words = ["--preset", "a8w8", "--data", str(data), "--keep-float", "1", "--latency"]
    assert main(["quantize", str(model), "-o", str(output), *words]) == 0
    shown = capsys.readouterr().out
    for word in ("Mixed", "1 of 2 layers float", "of the multiplications", "on 3 held-back samples", "Latency"):
        assert word in shown, word


def test_more_layers_than_there_are_is_refused(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.onnx"
    assert main(["quantize", str(model), "-o", str(output), "--data", str(data), "--keep-float", "2"]) == 1
    assert "leave 2 layers" in capsys.readouterr().err
    assert not output.exists()
