"""The shape of the package, enforced over its syntax trees: one direction of imports, small documented modules.

Each rule is a function from a source tree to the list of its violations, and each is shown to fire on a bad module.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "equiquant"
MAX_LINES = 400

# Each room may import those in lines above it, and itself; rooms on one line do not see each other.
ORDER = (
    ("errors",),
    ("printable",),
    ("decisions",),
    ("field_checks",),
    ("recipe",),
    ("numerics",),
    ("graph",),
    ("io",),
    ("canonical",),
    ("hardware",),
    ("backward",),
    ("equalization",),
    ("calibrate",),
    ("target",),
    ("qdq",),
    ("refine",),
    ("verify",),
    ("report",),
    ("pipeline",),
    ("options",),
    ("results",),
    ("api",),
    ("config",),
    ("demo",),
    ("cli", "compat"),
    ("__main__",),
)
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}

# Libraries that only some rooms may import, and rooms that may name their types only.
ONLY_IN = {
    "onnx": {"io"},
    "google": {"io"},
    "rich": {"cli", "demo"},
    "PIL": {"calibrate"},
    "torch": set[str](),
    "onnxscript": set[str](),
}
TYPES_ONLY_IN = {"onnx": {"api", "config", "results"}}
# Rooms and modules that change a graph, be it a copy of their own, and what of `graph.edit` changes none.
EDITORS = frozenset(
    {"backward", "canonical", "graph", "hardware", "qdq"}
    | {"io/runtime", "io/upgrade", "equalization/apply", "equalization/relu6", "pipeline/inputs/cuts"}
    | {"refine/run", "verify/float_noise"}
)
HARMLESS = frozenset(f"equiquant.graph.edit.{name}" for name in ("Names", "WRAPPING", "infer_shapes"))
NUMERICS_MAY_IMPORT = {"numpy", "scipy", "threadpoolctl", "equiquant"}


@dataclass(frozen=True)
class Import:
    """One imported module, `typing_only` if it is under `if TYPE_CHECKING`."""

    module: str
    line: int
    typing_only: bool


def modules(package: Path) -> Iterator[tuple[str, Path, ast.Module]]:
    """Yield (room, file, tree) of every module; the room of the package's own `__init__` is ''."""
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        room = "" if parts == ("__init__",) else parts[0]
        yield room, path, ast.parse(path.read_text())


def imports(tree: ast.Module, path: Path, package: Path) -> Iterator[Import]:
    """Yield every import of a module, wherever it stands, as absolute names."""
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    here = ["equiquant", *path.relative_to(package).parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, id(node) in guarded)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield Import(f"{module}.{alias.name}", node.lineno, id(node) in guarded)


def direction(package: Path) -> list[str]:
    """Imports between rooms that go the wrong way, and rooms without a place in the order."""
    found = []
    for room, path, tree in modules(package):
        if room and room not in LEVEL:
            found.append(f"{path.relative_to(package)}: '{room}' has no place in ORDER")
            continue
        for item in imports(tree, path, package):
            parts = item.module.split(".")
            if not room or parts[0] != "equiquant" or parts[1:] == ["__version__"]:
                continue
            target = parts[1] if len(parts) > 1 and parts[1] in LEVEL else "api"  # `from equiquant import quantize`
            if target != room and LEVEL[target] >= LEVEL[room]:
                found.append(
                    f"{path.relative_to(package)}:{item.line}: '{room}' imports '{target}', which comes after it"
                )
    return found


def libraries(package: Path) -> list[str]:
    """Libraries imported in rooms that must not know them."""
    found = []
    for room, path, tree in modules(package):
        for item in imports(tree, path, package):
            library = item.module.split(".")[0]
            where = f"{path.relative_to(package)}:{item.line}: '{room}' imports '{library}'"
            if room == "numerics" and library not in NUMERICS_MAY_IMPORT | set(sys.stdlib_module_names):
                found.append(f"{where}; numerics knows numpy, scipy and threadpoolctl only")
                continue
            allowed = ONLY_IN.get(library)
            if allowed is None or room in allowed:
                continue
            if not (item.typing_only and room in TYPES_ONLY_IN.get(library, ())):
                found.append(f"{where}; allowed in {sorted(allowed) or 'no room'}")
    return found


def editing(package: Path) -> list[str]:
    """Imports of what changes a graph, in modules that must not."""
    return [
        f"{module}.py:{line}: '{room}' imports what changes a graph; those that may are in EDITORS"
        for room, module, line in _editors(package)
        if EDITORS.isdisjoint({room, module})
    ]


def _editors(package: Path) -> Iterator[tuple[str, str, int]]:
    """Yield room, module (`room/name`) and line of every import of what changes a graph."""
    for room, path, tree in modules(package):
        for item in imports(tree, path, package):
            if item.module.startswith("equiquant.graph.edit") and item.module not in HARMLESS:
                yield room, path.relative_to(package).with_suffix("").as_posix(), item.line


def documentation(package: Path) -> list[str]:
    """Modules without a docstring, and public names that `__all__` does not match."""
    found = []
    for room, path, tree in modules(package):
        if not ast.get_docstring(tree):
            found.append(f"{path.relative_to(package)}: no module docstring")
        public, listed = _defined(tree), _listed(tree)
        functions = {name for name, is_definition in public.items() if is_definition}
        if functions and listed is None:
            found.append(f"{path.relative_to(package)}: no __all__, but it defines {sorted(functions)}")
        elif listed is not None:
            found += [
                f"{path.relative_to(package)}: {name} is public but not in __all__"
                for name in sorted(functions - set(listed))
            ]
            if room:  # the package's own names are loaded on demand; test_public_api.py asks for each
                found += [
                    f"{path.relative_to(package)}: __all__ names {n}, which is not there"
                    for n in listed
                    if n not in public
                ]
    return found


def _defined(tree: ast.Module) -> dict[str, bool]:
    """Return the public names a module binds at top level; True for its own functions and classes."""
    names: dict[str, bool] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names[node.name] = not node.name.startswith("_")
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0]: False for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {n.id: False for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    return names


def _listed(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and target.id == "__all__":
                return [str(name) for name in ast.literal_eval(node.value)]
    return None


def size(package: Path) -> list[str]:
    """Files that hold more than one idea."""
    return [
        f"{path.relative_to(package)}: {count} lines, more than {MAX_LINES}"
        for path in sorted(package.rglob("*.py"))
        if (count := len(path.read_text().splitlines())) > MAX_LINES
    ]


def printing(package: Path) -> list[str]:
    """Calls of print outside the command line."""
    return [
        f"{path.relative_to(package)}:{node.lineno}: print"
        for room, path, tree in modules(package)
        for node in ast.walk(tree)
        if room != "cli" and isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
    ]


Rule = Callable[[Path], list[str]]
RULES: tuple[Rule, ...] = (direction, libraries, editing, documentation, size, printing)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_package_obeys(rule: Rule) -> None:
    assert rule(PACKAGE) == []


@pytest.mark.parametrize("folder", ["tests", "benchmarks", "examples"])
def test_other_files_are_small_too(folder: str) -> None:
    assert size(ROOT / folder) == []


def test_every_editor_edits() -> None:
    found = {name for room, module, _ in _editors(PACKAGE) for name in (room, module)}
    assert found >= EDITORS - {"graph"}


HEAD = '"""A module."""\n'


@pytest.mark.parametrize(
    ("rule", "file", "source"),
    [
        (direction, "numerics/bad.py", "from equiquant.graph import query"),
        (direction, "graph/bad.py", "from equiquant import io"),
        (direction, "graph/bad.py", "import equiquant.pipeline"),
        (direction, "graph/bad.py", "from equiquant import quantize"),
        (direction, "graph/bad.py", "from ..io import load"),
        (direction, "graph/bad.py", "def f():\n    from equiquant.io import load"),
        (direction, "cli/bad.py", "from equiquant.compat import quark"),
        (direction, "errors.py", "from equiquant.recipe import Recipe"),
        (direction, "stray/bad.py", ""),
        (libraries, "numerics/bad.py", "import onnx_ir"),
        (libraries, "numerics/bad.py", "import onnxruntime as ort"),
        (libraries, "numerics/bad.py", "from onnx import numpy_helper"),
        (libraries, "qdq/bad.py", "from google.protobuf import message"),
        (libraries, "api.py", "import onnx"),
        (libraries, "report/bad.py", "import rich"),
        (libraries, "equalization/bad.py", "import torch"),
        (editing, "target/bad.py", "from equiquant.graph.edit import Names, set_input"),
        (editing, "refine/bad.py", "from equiquant.graph import edit"),
        (documentation, "graph/bad.py", "def seen() -> None: ..."),
        (documentation, "graph/bad.py", "__all__ = ['other']\nother = 1\ndef seen() -> None: ..."),
        (documentation, "graph/bad.py", "__all__ = ['absent']"),
        (size, "graph/bad.py", "\n" * MAX_LINES),
        (printing, "graph/bad.py", "print('x')"),
    ],
)
def test_each_rule_fires_on_a_bad_module(tmp_path: Path, rule: Rule, file: str, source: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEAD + source)
    assert len(rule(tmp_path)) == 1


def test_a_missing_docstring_is_found(tmp_path: Path) -> None:
    (tmp_path / "errors.py").write_text("")
    assert documentation(tmp_path) == ["errors.py: no module docstring"]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("io/good.py", "import onnx\nfrom google.protobuf import message\nfrom equiquant.graph import query"),
        ("api.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import onnx"),
        ("numerics/good.py", "import math\nimport numpy as np\nfrom equiquant.numerics import affine"),
        ("cli/good.py", "__all__ = ['main']\nfrom equiquant import quantize\ndef main() -> None: print('x')"),
        ("refine/run.py", "from equiquant.graph.edit import set_input"),
        ("target/good.py", "from equiquant.graph.edit import Names, infer_shapes"),
        ("graph/good.py", "from equiquant import __version__\n_a = 1\ndef _f() -> None: ..."),
    ],
)
def test_no_rule_fires_on_a_good_module(tmp_path: Path, file: str, source: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEAD + source)
    assert [violation for rule in RULES for violation in rule(tmp_path)] == []
