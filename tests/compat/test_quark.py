"""An existing script runs unchanged, and an installed original is never shadowed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from equiquant import config
from equiquant.compat.quark import SERVED, main
from equiquant.errors import OptionError

Said = Callable[[str], tuple[str, str]]

SCRIPT = """
import sys
import helper_beside_the_script
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
from quark.onnx import ModelQuantizer, PowerOfTwoMethod
from quark.onnx.quantization.config.config import Config, QuantizationConfig

input_model_path, output_model_path = sys.argv[1:]
quant_config = QuantizationConfig(
    quant_format=QuantFormat.QDQ, calibrate_method=PowerOfTwoMethod.MinMSE,
    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    enable_npu_cnn=True, include_cle=True,
    extra_options={'ActivationSymmetric': True, 'ReplaceClip6Relu': True, 'CLESteps': 1, 'CLEScaleAppendBias': True})
quantizer = ModelQuantizer(Config(global_quant_config=quant_config))
if __name__ == "__main__":
    quantizer.quantize_model(input_model_path, output_model_path, calibration_data_reader=None)
"""


def run(folder: Path, source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script as users do."""
    (folder / "script.py").write_text(source)
    (folder / "helper_beside_the_script.py").write_text("")
    command = [sys.executable, "-m", "equiquant.compat.quark", str(folder / "script.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Said]:
    """What runs a script in this process, which costs no new imports, and returns what it writes to either stream."""
    for name in ("argv", "path", "meta_path"):
        monkeypatch.setattr(sys, name, list(getattr(sys, name)))

    def run_here(source: str) -> tuple[str, str]:
        script = tmp_path / "script.py"
        script.write_text(source)
        assert main([str(script)]) == 0
        shown = capsys.readouterr()
        return shown.out, shown.err

    yield run_here
    for name in [name for name in sys.modules if name.partition(".")[0] == "quark"]:
        del sys.modules[name]


def install_original(folder: Path) -> None:
    """Put a package `quark` where the script's imports find it first."""
    package = folder / "quark" / "onnx"
    package.mkdir(parents=True)
    (folder / "quark" / "__init__.py").write_text("")
    (package / "__init__.py").write_text("ModelQuantizer = 'the original'\n")


def test_a_script_of_that_name_is_not_the_original(tmp_path: Path, said: Said) -> None:
    (tmp_path / "quark.py").write_text("raise RuntimeError")
    assert said("from quark.onnx import ModelQuantizer\nprint(ModelQuantizer.__module__)") == ("equiquant.config\n", "")


def test_the_documented_script_runs_unchanged(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.random.default_rng(0).standard_normal((2, 1, 3, 3)).astype(np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], "conv")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 5, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 3, 3])],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "in.onnx")
    done = run(tmp_path, SCRIPT, str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx"))
    assert done.returncode == 0, done.stderr
    assert "QuantizeLinear" in {n.op_type for n in onnx.load(tmp_path / "out.onnx").graph.node}
    assert "original" not in done.stderr


def test_every_served_name_is_ours() -> None:
    assert {name for names in SERVED.values() for name in names} <= set(config.__all__)
    assert all(module.rpartition(".")[0] in {*SERVED, ""} for module in SERVED)


def test_served_modules_import_every_way(said: Said) -> None:
    lines = [f"from {module} import {', '.join(names)}" for module, names in SERVED.items() if names]
    lines += [f"from {m.rpartition('.')[0]} import {m.rpartition('.')[2]}" for m in SERVED if "." in m]
    lines += ["import quark.onnx", "assert quark.onnx.QuantFormat.QDQ", "from quark.onnx.quantization.config import *"]
    lines += ["assert quark.onnx.quantization.config.custom_config.get_default_config('XINT8')"]
    lines += ["import equiquant.config", "assert ModelQuantizer is equiquant.config.ModelQuantizer"]
    assert said("\n".join(lines)) == ("", "")


@pytest.mark.parametrize(
    "line",
    [
        "from quark.onnx import VitisQuantFormat",
        "import quark.onnx; quark.onnx.VitisQuantFormat",
        "import quark.torch",
        "from quark.onnx.tools import convert_dynamic_to_fixed",
    ],
)
def test_names_not_served_say_which_are(said: Said, line: str) -> None:
    shown, _ = said(f"try:\n    {line}\nexcept ImportError as error:\n    print(error)")
    assert shown.startswith("EquiQuant does not serve")
    assert "quark.onnx: ModelQuantizer, Config, QuantizationConfig" in shown


def test_an_installed_original_is_used_and_said(tmp_path: Path, said: Said) -> None:
    install_original(tmp_path)
    shown, told = said("from quark.onnx import ModelQuantizer\nprint(ModelQuantizer)")
    assert shown == "the original\n"
    assert told == "equiquant.compat.quark: the original 'quark' is installed; the script runs with it.\n"


def test_a_mere_folder_of_that_name_is_no_original(tmp_path: Path, said: Said) -> None:
    (tmp_path / "quark").mkdir()
    assert said("from quark.onnx import ModelQuantizer\nprint(ModelQuantizer.__module__)") == ("equiquant.config\n", "")


def test_the_script_sees_its_own_arguments_and_exit_code(tmp_path: Path) -> None:
    done = run(tmp_path, "import sys\nprint(__name__, sys.argv[1:], sys.path[0])\nsys.exit(5)", "--steps", "2")
    assert done.stdout == f"__main__ ['--steps', '2'] {tmp_path.resolve()}\n"
    assert done.returncode == 5


def test_a_refused_option_ends_the_script(said: Said) -> None:
    with pytest.raises(OptionError, match="Unknown argument of QuantizationConfig 'include_cles'"):
        said("from quark.onnx.quantization.config import QuantizationConfig\nQuantizationConfig(include_cles=True)")


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: python -m equiquant.compat.quark" in capsys.readouterr().err
    assert main(["no-such-script.py"]) == 2
    assert "There is no script no-such-script.py" in capsys.readouterr().err
    assert main(["--help"]) == 0
    assert "usage:" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["QConfig", "QLayerConfig", "XInt8Spec", "CLEConfig", "XINT8_QCONFIG"])
def test_the_newer_configuration_is_told_what_does_its_work(said: Said, name: str) -> None:
    shown, _ = said(f"try:\n    from quark.onnx import {name}\nexcept ImportError as error:\n    print(error)")
    assert "get_default_config('XINT8')" in shown
