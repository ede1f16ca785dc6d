"""The public surface, as data: what `equiquant` offers, how it is called, and that importing it costs little."""

from __future__ import annotations

import enum
import inspect as stdlib_inspect
import re
import subprocess
import sys

import pytest

import equiquant

ENUMS = {"CalibrationMethod", "PowerOfTwoMethod", "QuantFormat", "QuantType"}
ERRORS = {"DataError", "EquiQuantError", "ModelError", "OptionError", "OutputError"}
CLASSES = {
    "CalibrationDataReader",
    "Comparison",
    "Config",
    "ImageOptions",
    "ModelQuantizer",
    "QuantizationConfig",
    "Recipe",
    "Report",
    "Result",
    "SearchResult",
}
FUNCTIONS = {"compare", "equalize", "get_default_config", "inspect", "preset", "quantize", "search"}
PUBLIC = ENUMS | ERRORS | CLASSES | FUNCTIONS | {"__version__"}

# Parameter names with their defaults, in order; `*` marks keyword-only ones. Scripts depend on these; keyword-only ones
# may be added behind them.
SIGNATURES = {
    "quantize": "model, output=None, *, data=None, preset='xint8'",
    "equalize": "model, output=None, *, data=None",
    "compare": "float_model, quantized_model, data",
    "preset": "name",
    "ModelQuantizer.quantize_model": (
        "self, model_input, model_output=None, calibration_data_reader=None, calibration_data_path=None"
    ),
}
HEAVY = ("numpy", "onnx", "onnx_ir", "onnxruntime", "scipy", "rich", "PIL", "google.protobuf")


def test_the_names_are_exactly_these() -> None:
    assert set(equiquant.__all__) == PUBLIC
    assert list(equiquant.__all__) == sorted(set(equiquant.__all__))


def test_every_name_is_there_and_listed_by_dir() -> None:
    for name in equiquant.__all__:
        assert getattr(equiquant, name) is not None
    assert set(dir(equiquant)) >= PUBLIC


@pytest.mark.parametrize("name", sorted(CLASSES | ENUMS | ERRORS))
def test_classes_are_classes(name: str) -> None:
    assert stdlib_inspect.isclass(getattr(equiquant, name))


@pytest.mark.parametrize("name", sorted(ENUMS))
def test_enums_are_enums(name: str) -> None:
    assert issubclass(getattr(equiquant, name), enum.Enum)


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_errors_share_one_base(name: str) -> None:
    assert issubclass(getattr(equiquant, name), equiquant.EquiQuantError)


@pytest.mark.parametrize("name", sorted(FUNCTIONS | (CLASSES - {"CalibrationDataReader"})))
def test_own_names_are_documented(name: str) -> None:
    assert stdlib_inspect.getdoc(getattr(equiquant, name))


@pytest.mark.parametrize(("dotted", "expected"), SIGNATURES.items())
def test_signatures(dotted: str, expected: str) -> None:
    target: object = equiquant
    for part in dotted.split("."):
        target = getattr(target, part)
    assert callable(target)
    signature = stdlib_inspect.signature(target)
    words = expected.split(", ")
    assert _parameters(signature)[: len(words)] == words
    named = [word for word in words if word != "*"]
    assert {p.kind for p in list(signature.parameters.values())[len(named) :]} <= {
        stdlib_inspect.Parameter.KEYWORD_ONLY,
        stdlib_inspect.Parameter.VAR_KEYWORD,
    }


@pytest.mark.parametrize("name", ["quantize", "preset"])
def test_recipe_fields_are_accepted_by_name(name: str) -> None:
    kinds = {p.kind for p in stdlib_inspect.signature(getattr(equiquant, name)).parameters.values()}
    assert stdlib_inspect.Parameter.VAR_KEYWORD in kinds


def _parameters(signature: stdlib_inspect.Signature) -> list[str]:
    parts: list[str] = []
    for p in signature.parameters.values():
        if p.kind is p.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        prefix = "**" if p.kind is p.VAR_KEYWORD else "*" if p.kind is p.VAR_POSITIONAL else ""
        parts.append(prefix + p.name + ("" if p.default is p.empty else f"={p.default!r}"))
    return parts


def test_the_enums_are_onnxruntimes_own() -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    for name in ("CalibrationDataReader", "CalibrationMethod", "QuantFormat", "QuantType"):
        assert getattr(equiquant, name) is getattr(quantization, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    missing = "quantise"
    with pytest.raises(AttributeError, match=missing):
        getattr(equiquant, missing)


def test_the_version_is_a_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", equiquant.__version__)


@pytest.mark.parametrize("before", ["", "import equiquant.equalization", "from equiquant import quantize; quantize"])
def test_a_room_of_the_same_name_does_not_hide_a_function(before: str) -> None:
    code = f"{before}\nfrom equiquant import equalize, inspect\nassert callable(equalize) and callable(inspect)"
    code += "\nfrom equiquant.equalization import classes"  # and the room stays importable
    subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = f"import sys, equiquant; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_check_for_heavy_imports_can_fail() -> None:
    code = f"import sys, numpy; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['numpy']"
