"""Folders and files of calibration data, as they lie on a disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equiquant.calibrate import SampleStream, open_samples
from equiquant.errors import DataError
from equiquant.io import InputSpec
from equiquant.recipe import preset
from tests.calibrate.support import IMAGE, samples

RECIPE = preset("a8w8")
TWO = [InputSpec("a", "float32", (None, 2)), InputSpec("b", "float32", (None, 3))]
A, B = np.ones((1, 2), np.float32), np.ones((1, 3), np.float32)


def write(folder: Path, files: dict[str, np.ndarray | bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(content) if isinstance(content, bytes) else np.save(file, content)


def opened(data: Any, *specs: InputSpec) -> SampleStream:
    return open_samples(data, specs, RECIPE)


@pytest.mark.parametrize(
    ("more", "count", "skipped"),
    [
        ({"a/1.NPY": A, "b/1.NPY": B}, 2, 0),
        ({"a/._0.npy": b"no", "b/._0.npy": b"no"}, 1, 0),
        ({"a/c/1.npy": A, "b/c/1.npy": B, "beside.npy": A, "a/0.npz": b"no", "read.me": b"no"}, 1, 5),
    ],
)
def test_a_folder_an_input_holds_npy_files_and_the_rest_is_counted(
    tmp_path: Path, more: dict[str, Any], count: int, skipped: int
) -> None:
    write(tmp_path, {"a/0.npy": A, "b/0.npy": B, **more})
    with opened(tmp_path, *TWO) as stream:
        assert len(list(stream)) == count
        assert stream.skipped == skipped


def test_a_folder_an_input_without_npy_files_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"a/0.npz": b"no", "b/0.npz": b"no"})
    with pytest.raises(DataError, match=r"none of them holds \.npy files"):
        opened(tmp_path, *TWO)


def test_links_are_followed_once_and_hidden_folders_are_no_data(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", {f"{i}.npy": x for i, x in enumerate(samples(3))})
    data = tmp_path / "data"
    write(data, {"a.npy": samples(1), ".cache/b.npy": samples(1)})
    for name, target in (("linked", tmp_path / "elsewhere"), ("twice", tmp_path / "elsewhere"), ("loop", data)):
        (data / name).symlink_to(target, target_is_directory=True)
    with opened(data, IMAGE) as stream:
        assert stream.samples == 4
        assert stream.skipped == 0


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_the_folder_of_an_input_may_be_a_link_to_that_of_another(tmp_path: Path, names: str) -> None:
    write(tmp_path, {f"{names[0]}/{i}.npy": np.full((1, 2), i, np.float32) for i in range(3)})
    write(tmp_path, {"beside.npy": A})
    (tmp_path / names[1]).symlink_to(names[0], target_is_directory=True)
    with opened(tmp_path, *(InputSpec(name, "float32", (None, 2)) for name in "ab")) as stream:
        assert [(f["a"][0, 0], f["b"][0, 0]) for f in stream] == [(i, i) for i in range(3)]
        assert stream.skipped == 1


def damaged_header(header: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data[:10] + header.ljust(118)[:117] + b"\n" + data[128:]


@pytest.mark.parametrize(
    "header", [b'{"descr": "<f4", "shape": (1, 3', b"{'descr': [], 'fortran_order': 0, 1: ()}", b"a("]
)
def test_a_damaged_npy_header_names_the_file(tmp_path: Path, header: bytes) -> None:
    np.save(tmp_path / "x.npy", samples(1))
    path = tmp_path / "x.npy"
    path.write_bytes(damaged_header(header)(path.read_bytes()))
    with pytest.raises(DataError, match=r"Cannot read .*x\.npy"):
        opened(path, IMAGE)
