"""An existing script runs unchanged, and an installed original is never shadowed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from equiquant import config
from equiquant.compat.quark import SERVED, main

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
    (folder / "script.py").write_text(source)
    (folder / "helper_beside_the_script.py").write_text("")
    command = [sys.executable, "-m", "equiquant.compat.quark", str(folder / "script.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def install_original(folder: Path) -> None:
    """Put a package `quark` where the script's imports find it first."""
    package = folder / "quark" / "onnx"
    package.mkdir(parents=True)
    (folder / "quark" / "__init__.py").write_text("")
    (package / "__init__.py").write_text("ModelQuantizer = 'the original'\n")


def test_a_script_of_that_name_is_not_the_original(tmp_path: Path) -> None:
    (tmp_path / "quark.py").write_text("raise RuntimeError")
    done = run(tmp_path, "from quark.onnx import ModelQuantizer\nprint(ModelQuantizer.__module__)")
    assert "equiquant" in done.stdout, done.stderr


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


def test_served_modules_import_every_way(tmp_path: Path) -> None:
    lines = [f"from {module} import {', '.join(names)}" for module, names in SERVED.items() if names]
    lines += [f"from {m.rpartition('.')[0]} import {m.rpartition('.')[2]}" for m in SERVED if "." in m]
    lines += ["import quark.onnx", "assert quark.onnx.QuantFormat.QDQ", "from quark.onnx.quantization.config import *"]
    lines += ["assert quark.onnx.quantization.config.custom_config.get_default_config('XINT8')"]
    lines += ["import equiquant.config", "assert ModelQuantizer is equiquant.config.ModelQuantizer"]
    done = run(tmp_path, "\n".join(lines))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "line",
    [
        "from quark.onnx import VitisQuantFormat",
        "import quark.onnx; quark.onnx.VitisQuantFormat",
        "import quark.torch",
        "from quark.onnx.tools import convert_dynamic_to_fixed",
    ],
)
def test_names_not_served_say_which_are(tmp_path: Path, line: str) -> None:
    done = run(tmp_path, f"try:\n    {line}\nexcept ImportError as error:\n    print(error)")
    assert done.stdout.startswith("EquiQuant does not serve")
    assert "quark.onnx: ModelQuantizer, Config, QuantizationConfig" in done.stdout
    assert done.returncode == 0, done.stderr


def test_an_installed_original_is_used_and_said(tmp_path: Path) -> None:
    install_original(tmp_path)
    done = run(tmp_path, "from quark.onnx import ModelQuantizer\nprint(ModelQuantizer)")
    assert done.stdout == "the original\n"
    assert done.stderr == "equiquant.compat.quark: the original 'quark' is installed; the script runs with it.\n"
    assert done.returncode == 0


def test_a_mere_folder_of_that_name_is_no_original(tmp_path: Path) -> None:
    (tmp_path / "quark").mkdir()
    done = run(tmp_path, "from quark.onnx import ModelQuantizer\nprint(ModelQuantizer.__module__)")
    assert (done.stdout, done.stderr) == ("equiquant.config\n", "")


def test_the_script_sees_its_own_arguments_and_exit_code(tmp_path: Path) -> None:
    done = run(tmp_path, "import sys\nprint(__name__, sys.argv[1:], sys.path[0])\nsys.exit(5)", "--steps", "2")
    assert done.stdout == f"__main__ ['--steps', '2'] {tmp_path.resolve()}\n"
    assert done.returncode == 5


def test_a_refused_option_ends_the_script(tmp_path: Path) -> None:
    source = "from quark.onnx.quantization.config import QuantizationConfig\nQuantizationConfig(include_cles=True)"
    done = run(tmp_path, source)
    assert done.returncode == 1
    assert "OptionError: Unknown argument of QuantizationConfig 'include_cles'" in done.stderr.splitlines()[-1]


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: python -m equiquant.compat.quark" in capsys.readouterr().err
    assert main(["no-such-script.py"]) == 2
    assert "There is no script no-such-script.py" in capsys.readouterr().err
    assert main(["--help"]) == 0
    assert "usage:" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["QConfig", "QLayerConfig", "XInt8Spec", "CLEConfig", "XINT8_QCONFIG"])
def test_the_newer_configuration_is_told_what_does_its_work(tmp_path: Path, name: str) -> None:
    done = run(tmp_path, f"try:\n    from quark.onnx import {name}\nexcept ImportError as error:\n    print(error)")
    assert "get_default_config('XINT8')" in done.stdout
