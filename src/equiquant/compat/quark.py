"""Run a script written for AMD Quark ONNX, unchanged: `python -m equiquant.compat.quark script.py [args]`.

The script's `from quark.onnx import ...` is answered with EquiQuant's classes of the same names. The finder is the last
one asked, and is only put in place when no `quark` can be imported: an installed original is never shadowed.
"""

from __future__ import annotations

import importlib.util
import runpy
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

__all__ = ["SERVED", "install", "main"]

_CONFIG = ("Config", "QuantizationConfig", "get_default_config")
_ENUMS = ("CalibrationDataReader", "CalibrationMethod", "PowerOfTwoMethod", "QuantFormat", "QuantType")

SERVED: Mapping[str, tuple[str, ...]] = {
    "quark": (),
    "quark.onnx": ("ModelQuantizer", *_CONFIG, *_ENUMS),
    "quark.onnx.calibrate": ("CalibrationDataReader", "CalibrationMethod", "PowerOfTwoMethod"),
    "quark.onnx.calibration": ("CalibrationDataReader", "CalibrationMethod", "PowerOfTwoMethod"),
    "quark.onnx.calibration.methods": ("PowerOfTwoMethod",),
    "quark.onnx.quant_utils": ("PowerOfTwoMethod", "QuantFormat", "QuantType"),
    "quark.onnx.quantization": ("ModelQuantizer", *_CONFIG),
    "quark.onnx.quantization.api": ("ModelQuantizer",),
    "quark.onnx.quantization.config": _CONFIG,
    "quark.onnx.quantization.config.config": _CONFIG,
    "quark.onnx.quantization.config.custom_config": ("get_default_config",),
    "quark.onnx.quantization.config.legacy": ("QuantizationConfig",),
}
"""Module name to the names it serves; each is the object of that name in `equiquant.config`."""

_USAGE = "usage: python -m equiquant.compat.quark script.py [arguments of the script]\n"


class _Served(ModuleType):
    """A module whose missing names say which ones there are."""

    def __getattr__(self, name: str) -> object:
        submodule = f"{self.__name__}.{name}"
        if submodule in SERVED:
            return import_module(submodule)
        if name.startswith("__"):  # asked for by the import system itself
            raise AttributeError(f"module '{self.__name__}' has no attribute '{name}'")
        raise ImportError(_refusal(f"'{name}' from '{self.__name__}'"))


class _Finder(MetaPathFinder, Loader):
    """Finds the served modules, and refuses every other module below `quark` with the list of them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in SERVED:
            package = any(other.startswith(f"{fullname}.") for other in SERVED)
            return ModuleSpec(fullname, self, is_package=package)
        if fullname.startswith("quark."):
            raise ModuleNotFoundError(_refusal(f"module '{fullname}'"), name=fullname)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Served(spec.name, f"Stands in for '{spec.name}'; served by EquiQuant.")

    def exec_module(self, module: ModuleType) -> None:
        config = import_module("equiquant.config")
        names = SERVED[module.__name__]
        for name in names:
            setattr(module, name, getattr(config, name))
        module.__dict__["__all__"] = list(names)


def _refusal(what: str) -> str:
    served = "; ".join(f"{module}: {', '.join(names)}" for module, names in SERVED.items() if names)
    newer = " QConfig and what goes with it are done by QuantizationConfig, or get_default_config('XINT8')."
    hint = newer if what.endswith("Spec' from 'quark.onnx'") or "CONFIG" in what.upper() else ""
    return f"EquiQuant does not serve {what}.{hint} It serves {served}."


def install() -> bool:
    """Serve the names from now on, unless the original can be imported; return whether they are served."""
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return True
    if "quark" in sys.modules:
        return False
    spec = importlib.util.find_spec("quark")  # a mere folder of that name has no origin, a mere script no submodules
    if spec is not None and spec.origin is not None and spec.submodule_search_locations is not None:
        return False
    sys.meta_path.insert(0, _Finder())
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script named first in `argv` as the main program, and return 0; usage errors return 2."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        (sys.stdout if arguments else sys.stderr).write(_USAGE)
        return 0 if arguments else 2
    script = Path(arguments[0])
    if not script.is_file():
        sys.stderr.write(f"{_USAGE}There is no script {script}.\n")
        return 2
    sys.argv = arguments
    sys.path[0] = str(script.resolve().parent)
    if not install():
        sys.stderr.write("equiquant.compat.quark: the original 'quark' is installed; the script runs with it.\n")
    runpy.run_path(str(script), run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main())
