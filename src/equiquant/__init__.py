"""EquiQuant: accurate INT8 ONNX models by cross-layer equalization, without the training framework.

Everything public is importable from here; the modules behind it are loaded on first use, so that `import equiquant`
costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType

    from equiquant.api import compare, equalize, inspect, quantize, search
    from equiquant.config import Config, ModelQuantizer, PowerOfTwoMethod, QuantizationConfig, get_default_config
    from equiquant.errors import DataError, EquiQuantError, ModelError, OptionError, OutputError
    from equiquant.recipe import ImageOptions, Recipe, preset
    from equiquant.report import Report
    from equiquant.results import Result, SearchResult
    from equiquant.verify import Comparison

__version__ = "0.1.0"

_HOMES = {
    "equiquant.api": ("compare", "equalize", "inspect", "quantize", "search"),
    "equiquant.config": ("Config", "ModelQuantizer", "PowerOfTwoMethod", "QuantizationConfig", "get_default_config"),
    "equiquant.errors": ("DataError", "EquiQuantError", "ModelError", "OptionError", "OutputError"),
    "equiquant.recipe": ("ImageOptions", "Recipe", "preset"),
    "equiquant.report": ("Report",),
    "equiquant.results": ("Result", "SearchResult"),
    "equiquant.verify": ("Comparison",),
    "onnxruntime.quantization": ("CalibrationDataReader", "CalibrationMethod", "QuantFormat", "QuantType"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "CalibrationDataReader",
    "CalibrationMethod",
    "Comparison",
    "Config",
    "DataError",
    "EquiQuantError",
    "ImageOptions",
    "ModelError",
    "ModelQuantizer",
    "OptionError",
    "OutputError",
    "PowerOfTwoMethod",
    "QuantFormat",
    "QuantType",
    "QuantizationConfig",
    "Recipe",
    "Report",
    "Result",
    "SearchResult",
    "__version__",
    "compare",
    "equalize",
    "get_default_config",
    "inspect",
    "preset",
    "quantize",
    "search",
]


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'equiquant' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
