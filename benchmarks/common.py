"""What the benchmarks share: seeded inputs, fresh processes, tables, and a note of the machine.

Nothing heavy is imported here on purpose: Linux counts the parent's resident memory into a child's peak across fork and
exec, so the process that starts the measured ones must stay small.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["ROOT", "SHARED", "environment", "last_json", "markdown", "noise", "real_data", "write_json"]

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"  # optional: real models and data, and the peer's script


def noise(shape: Sequence[int], samples: int) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the seeded standard normal inputs that the peer's script makes too, one at a time."""
    import numpy as np

    rng = np.random.default_rng(0)
    for _ in range(samples):
        yield rng.standard_normal(shape).astype(np.float32)


def real_data(parser: argparse.ArgumentParser, folder: Path) -> Any:
    """Return the module that loads the real models and scores candidates; without it the parser ends the program."""
    if not (folder / "realdata.py").exists():
        parser.error(f"the folder with the real models is missing: {folder}")
    sys.path.insert(0, str(folder))
    return importlib.import_module("realdata")


def last_json(command: Sequence[str], timeout: float, folder: Path = ROOT) -> dict[str, Any]:
    """Run a command in a folder and return the last JSON object it printed.

    Raises:
        RuntimeError: It failed, took too long, or printed none; the message ends with what it said last.
    """
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{command[1]} took more than {timeout:.0f} s") from error
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise RuntimeError(f"{' '.join(command[1:3])} failed:\n{(done.stderr or done.stdout)[-2000:]}")
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def environment() -> dict[str, str | int | None]:
    """Return what a reader needs to compare figures: the processor, the cores and the versions."""
    names = ("equiquant", "numpy", "onnx", "onnx-ir", "onnxruntime", "scipy")
    versions = {name: _version(name) for name in names}
    return {"cpu": _cpu(), "cores": os.cpu_count(), "python": platform.python_version(), **versions}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a markdown table, the first column left, the others right."""
    lines = [header, ["---"] + ["--:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def write_json(path: Path | None, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows with the environment they were measured in, if a path was given."""
    if path is not None:
        path.write_text(json.dumps({"environment": environment(), "rows": list(rows)}, indent=1) + "\n")
