"""Where things are read, and where results may go: checked before any work, so that nothing is lost or written over."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from equiquant.errors import DataError, EquiQuantError, OutputError

__all__ = ["check_makeable", "check_writable", "path_of", "place_of", "replacing"]


def path_of(given: str | os.PathLike[str]) -> Path:
    """Return where something is read; what says so may do it in bytes, as the entries of a folder named in bytes do.

    Raises:
        DataError: It is empty.
    """
    return Path(os.fsdecode(_named(given, DataError)))


def place_of(given: str | os.PathLike[str]) -> Path:
    """Return where a result goes.

    Raises:
        OutputError: It is no path, or empty.
    """
    try:
        return Path(_named(given, OutputError))
    except TypeError as error:
        raise OutputError(f"Where a result goes must be a path. Got {given!r} instead.") from error


def _named(given: str | os.PathLike[str], error: type[EquiQuantError]) -> str:
    """Return a path as text; an empty one would be the current folder, and was not meant."""
    name = os.fspath(given)
    if not name:
        raise error("A path is empty, as where a variable of the shell is not set. Name a file or a folder.")
    return name


def check_writable(target: str | Path, *read: Path) -> Path:
    """Check that `target` can be written and is nothing that is read.

    Args:
        target: A file, which may exist.
        read: Files that the run reads.

    Raises:
        OutputError: The folder is missing or read-only, the path is a folder, a device or a pipe, or it is read.
    """
    path = Path(target)
    if path.is_dir():
        raise OutputError(f"The output {path} is a folder; give the name of a file in it.")
    _refuse_special(path)
    if path.exists() and path.resolve() in [source.resolve() for source in read]:
        raise OutputError(
            f"The output {path} is the input model, or among its data; choose another name so that nothing is lost."
        )
    if not path.parent.is_dir():
        raise OutputError(f"The output folder {path.parent} does not exist.")
    _check_folder(path.parent)
    return path


def check_makeable(folder: str | Path) -> Path:
    """Check that `folder` can be made, with all its parents, and written to.

    Raises:
        OutputError: It or one of its parents is a file or read-only.
    """
    path = Path(folder)
    existing = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not existing.is_dir():
        raise OutputError(f"Cannot write to {path}: {existing} is a file.")
    _check_folder(existing)
    return path


@contextmanager
def replacing(path: Path, what: str = "") -> Iterator[Path]:
    """Write a file whole or not at all: give a place in a folder beside it, and move it when all is written.

    So are other files written to that folder, before this one.

    Args:
        path: The file, made or replaced.
        what: What is written, for the error.

    Raises:
        OutputError: It cannot be written, or is no regular file; nothing is left behind.
    """
    _refuse_special(path)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".equiquant-") as folder:
            place = Path(folder, path.name)
            yield place
            for written in sorted(place.parent.iterdir(), key=lambda file: file == place):
                written.replace(path.with_name(written.name))
    except OSError as error:
        named = f"{what} to {path}" if what else path
        raise OutputError(f"Cannot write {named}: {error.strerror or error}") from error


def _refuse_special(path: Path) -> None:
    """Refuse to write where something is that is no file: a file made elsewhere and renamed would take its place.

    Raises:
        OutputError: The path is a device, a pipe or a socket.
    """
    if path.exists() and not path.is_file():
        raise OutputError(f"{path} exists and is not a regular file; give the name of a file.")


def _check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be written to."""
    if not os.access(folder, os.W_OK):
        raise OutputError(f"The output folder {folder} is not writable.")
    try:  # root may pass os.access on a read-only file system; ask the file system itself
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"Cannot write to {folder}: {error.strerror}") from error
