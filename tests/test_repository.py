"""The repository as a stranger finds it: nothing of one machine in it, and what the documentation says exists."""

from __future__ import annotations

import ast
import functools
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import equiquant

ROOT = Path(__file__).resolve().parent.parent
TEXT = {".py", ".md", ".toml", ".yml", ".yaml", ".cfg", ".txt", ".json", ".sh", ""}
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])
SHARED_ALLOWED = ("tests/", "benchmarks/", "Makefile")

# Built from pieces, so that this file does not contain what it forbids.
FORBIDDEN = {
    "a path of one machine": r"(?<![\w.])/(?:" + "|".join(("work", "home", "root", "Users", "mnt")) + r")/\w",
    "a package registry": "|".join(
        ("index" + "-url", r"pypi\.org/sim" + "ple", "python" + "hosted", "artifact" + "ory")
    ),
    "a working document": r"\b(?:DES" + r"IGN|CONVEN" + r"TIONS|DEVEL" + r"OPERS)\b",
    "a working arrangement": "|".join((r"\bthe le" + r"ad\b", r"\bsess" + r"ion brief\b", r"\bissue" + r" #?\d+\b")),
}
SHARED = r"\bsha" + r"red/"


def files() -> Iterator[Path]:
    """Yield every text file of the checkout that is not generated."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    names = done.stdout.splitlines() if done.returncode == 0 else [str(p.relative_to(ROOT)) for p in _tree(ROOT)]
    for name in names:
        path = ROOT / name
        if path.is_file() and path.suffix in TEXT:
            yield path


def _tree(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.name.startswith((".", "__pycache__", "build", "dist")):
            yield from _tree(path)
        elif path.is_file():
            yield path


def objections(name: str, text: str) -> list[str]:
    """Return what must not stand in a file of that name."""
    patterns = dict(FORBIDDEN)
    if not name.startswith(SHARED_ALLOWED):
        patterns["a folder beside the checkout"] = SHARED
    return [
        f"{name}:{number}: {kind}: {found.group()}"
        for number, line in enumerate(text.splitlines(), 1)
        for kind, pattern in patterns.items()
        if (found := re.search(pattern, line))
    ]


def test_no_file_knows_where_it_was_written() -> None:
    texts = {str(path.relative_to(ROOT)): path.read_text() for path in files()}
    assert "README.md" in texts
    assert [objection for name, text in texts.items() for objection in objections(name, text)] == []


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("src/a.py", 'open("/wo' + 'rk/main/x")'),
        ("docs/a.md", "see /ho" + "me/someone/x"),
        ("Makefile", "pip install --index" + "-url x"),
        ("src/a.py", '"""As DES' + 'IGN says."""'),
        ("README.md", "as issue" + " #2 asks"),
        ("src/a.py", "../sha" + "red/data"),
    ],
)
def test_the_check_can_fail(name: str, line: str) -> None:
    assert len(objections(name, line)) == 1


@pytest.mark.parametrize(
    "line", ["the work/life balance", "onnxruntime sessions", "a homepage", "https://a.org/work/x"]
)
def test_ordinary_text_passes(line: str) -> None:
    assert objections("src/a.py", line) == []


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_make_targets_in_the_documentation_exist(path: Path) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert {"demo", "test", "bench", "clean", "format"} <= targets
    said = set(re.findall(r"`make (\w+)", path.read_text()))
    said |= {target for block in blocks(path, "sh") for target in re.findall(r"^make (\w+)", block, flags=re.MULTILINE)}
    assert said <= targets


@functools.cache
def usage(command: str) -> str:
    code = "import sys; from equiquant.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code, command, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, f"equiquant {command} --help: {done.stderr}"
    return done.stdout


def command_lines(path: Path) -> list[list[str]]:
    text = "\n".join([*blocks(path, "sh"), *re.findall(r"`(equiquant [^`]+)`", path.read_text())])
    return [line.split("#")[0].split()[1:] for line in text.splitlines() if line.startswith("equiquant ")]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_in_the_documentation_exist(path: Path) -> None:
    for command, *words in command_lines(path):
        known = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", usage(command)))
        assert {word for word in words if word.startswith("-")} <= known


def test_the_readme_shows_every_command_but_the_demo() -> None:
    assert {words[0] for words in command_lines(ROOT / "README.md")} >= {"quantize", "equalize", "compare", "inspect"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_python_in_the_documentation_parses_and_its_names_exist(path: Path) -> None:
    for block in blocks(path, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("equiquant"):
                module = importlib.import_module(str(node.module))
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", path.read_text())
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert missing == []


def test_the_readme_has_its_measured_results() -> None:
    assert "<!-- MEASURED" not in (ROOT / "README.md").read_text()


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    newest = re.search(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert newest is not None
    assert project["version"] == equiquant.__version__ == newest.group(1)


def test_continuous_integration_runs_the_tests() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert "make test" in script.read_text()
