import gc
import io
import itertools
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from equiquant.calibrate import SampleStream, open_samples
from equiquant.calibrate.data.feeds import filling
from equiquant.errors import DataError
from equiquant.io import InputSpec
from equiquant.recipe import preset
from tests.calibrate.support import IMAGE, samples

RECIPE = preset("a8w8")
TWO = [InputSpec("a", "float32", (None, 2)), InputSpec("ids", "int64", (None, 3))]


class Reader:
    """An onnxruntime CalibrationDataReader, as scripts write them."""

    def __init__(self, x: np.ndarray) -> None:
        self._items = iter([{"x": row[None]} for row in x])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._items, None)


class StoppingReader(Reader):
    """A reader that does not say what comes after the last."""

    def get_next(self) -> dict[str, np.ndarray]:
        return next(self._items)


def stacked(stream: SampleStream) -> np.ndarray:
    return np.concatenate([feed["x"] for feed in stream])


def save_npz(folder: Path, x: np.ndarray) -> Path:
    np.savez_compressed(folder / "x.npz", anything=x)
    return folder / "x.npz"


def save_npy(folder: Path, x: np.ndarray) -> Path:
    np.save(folder / "x.npy", x)
    return folder / "x.npy"


def save_folder(folder: Path, x: np.ndarray) -> Path:
    (folder / "data" / "deep").mkdir(parents=True)
    for i, row in enumerate(x):
        np.save(folder / "data" / f"{i:02}.npy", row) if i < 3 else np.savez(folder / "data/deep" / f"{i:02}.npz", row)
    return folder / "data"


def refilled(x: np.ndarray) -> Iterator[np.ndarray]:
    """Yield one array again and again, as loaders that reuse their memory do."""
    buffer = np.empty_like(x[:1])
    for row in x:
        buffer[:] = row
        yield buffer


KINDS: dict[str, Callable[[Path, np.ndarray], Any]] = {
    "array": lambda _, x: x,
    "float64": lambda _, x: x.astype(np.float64),
    "batches array": lambda _, x: x[:, None],
    "list without batch": lambda _, x: list(x),
    "list of feeds": lambda _, x: [{"x": r[None]} for r in x],
    "mapping": lambda _, x: {"x": x},
    "generator": lambda _, x: (r[None] for r in x),
    "one buffer": lambda _, x: refilled(x),
    "loader pairs": lambda _, x: ((r[None], 3) for r in x),
    "reader": lambda _, x: Reader(x),
    "reader that stops": lambda _, x: StoppingReader(x),
    "npy": save_npy,
    "npz": save_npz,
    "folder": save_folder,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_data_gives_the_same_samples_again_and_again(kind: str, tmp_path: Path) -> None:
    x = samples(5)
    with open_samples(KINDS[kind](tmp_path, x), [IMAGE], RECIPE) as stream:
        assert not stream.synthetic
        first = stream.first(2)
        assert np.array_equal(first[1]["x"], x[1:2])
        for _ in range(2):
            assert np.array_equal(stacked(stream), x)
        assert stream.samples == 5


class Tensor:
    """A torch tensor with a gradient, as far as anyone here looks."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def detach(self) -> "Tensor":
        return Tensor(self.array)

    def cpu(self) -> "Tensor":
        return self

    def numpy(self) -> np.ndarray:
        return self.array

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise RuntimeError("it requires grad")


class Rows:
    """A Hugging Face dataset, as far as anyone here looks."""

    column_names = ("x",)
    features = "some"

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter([])


def test_mappings_may_hold_tensors() -> None:
    x = samples(3)
    with open_samples({"x": Tensor(x)}, [IMAGE], RECIPE) as stream:
        assert np.array_equal(stacked(stream), x)


@pytest.mark.parametrize(
    ("value", "message"),
    [([[1.0], [1.0, 2.0]], "'x' cannot be read as an array"), (Rows(), r"give one of them, e.g. dataset\['x'\]")],
)
def test_mappings_of_other_things_are_refused(value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_samples({"x": value}, [IMAGE], RECIPE)


def test_a_folder_an_input_gives_files_of_one_name_together(tmp_path: Path) -> None:
    values: dict[str, np.ndarray] = {
        "a": np.arange(6, dtype=np.float32).reshape(3, 2),
        "ids": np.arange(9).reshape(3, 3),
    }
    for name, array in values.items():
        (tmp_path / name).mkdir()
        for index, row in enumerate(array):
            np.save(tmp_path / name / f"{index}.npy", row)
    with open_samples(tmp_path, TWO, RECIPE) as stream:
        feeds = list(stream)
    assert all(np.array_equal(np.concatenate([f[name] for f in feeds]), array) for name, array in values.items())
    (tmp_path / "ids" / "2.npy").unlink()
    with pytest.raises(DataError, match=r"'2\.npy' is in one of the folders 'a' and 'ids' only"):
        open_samples(tmp_path, TWO, RECIPE)


def test_a_generator_is_read_lazily_and_once() -> None:
    seen: list[int] = []

    def endless() -> Iterator[np.ndarray]:
        for i in itertools.count():
            seen.append(i)
            yield np.full((3, 4, 5), i, np.float32)

    with open_samples(endless(), [IMAGE], preset("a8w8", calibration_samples=1000)) as stream:
        assert seen == []
        stream.first(3)
        assert seen == [0, 1, 2]
        alive: list[weakref.ref[np.ndarray]] = []
        most = 0
        for feed in stream:
            alive.append(weakref.ref(feed["x"]))
            most = max(most, sum(r() is not None for r in alive[-5:]))
        assert most <= 2  # the feed in hand and the one before it
        assert stream.samples == 1000
        assert len(seen) == 1000  # not one more than needed
        assert [int(f["x"][0, 0, 0, 0]) for f in stream.first(5)] == [0, 1, 2, 3, 4]


def test_two_passes_at_once_do_not_disturb_each_other() -> None:
    x = samples(6)
    with open_samples(iter(x), [IMAGE], RECIPE) as stream:
        pairs = list(zip(stream, itertools.islice(stream, 1, None), strict=False))
    assert len(pairs) == 5
    assert all(
        np.array_equal(a["x"], x[i : i + 1]) and np.array_equal(b["x"], x[i + 1 : i + 2])
        for i, (a, b) in enumerate(pairs)
    )


def test_several_inputs_from_feeds_tuples_arrays_and_files(tmp_path: Path) -> None:
    a, ids = np.arange(8, dtype=np.float32).reshape(4, 2), np.arange(12).reshape(4, 3)
    np.savez(tmp_path / "both.npz", a=a, ids=ids)
    sources: list[Any] = [
        {"a": a, "ids": ids},
        ({"ids": i, "a": r} for r, i in zip(a, ids, strict=True)),
        list(zip(a, ids, strict=True)),
        [[r, i] for r, i in zip(a, ids, strict=True)],
        tmp_path / "both.npz",
        str(tmp_path / "both.npz"),
    ]
    for source in sources:
        with open_samples(source, TWO, RECIPE) as stream:
            for _ in range(2):
                feeds = list(stream)
                assert np.array_equal(np.concatenate([f["a"] for f in feeds]), a)
                assert np.array_equal(np.concatenate([f["ids"] for f in feeds]), ids)


def test_a_static_batch_is_filled_with_its_own_samples() -> None:
    x = samples(5)
    spec = InputSpec("x", "float32", (4, 3, 4, 5))
    feeds = list(open_samples(x, [spec], RECIPE))
    assert [f["x"].shape[0] for f in feeds] == [4, 4]
    assert np.array_equal(feeds[1]["x"], x[[4, 4, 4, 4]])
    again = open_samples(open_samples(x, [spec], RECIPE), [spec], RECIPE)
    assert [filling(feed) for feed in again] == [0, 3]
    assert again.samples == 5
    lone = list(open_samples(x[:1], [spec], RECIPE))
    assert np.array_equal(lone[0]["x"], x[[0, 0, 0, 0]])


def test_one_sample_without_the_batch_dimension() -> None:
    assert np.array_equal(stacked(open_samples(samples(1)[0], [IMAGE], RECIPE)), samples(1))


@pytest.mark.parametrize("kind", ["array", "generator", "reader", "npz"])
def test_calibration_samples_limits(kind: str, tmp_path: Path) -> None:
    x = samples(6)
    with open_samples(KINDS[kind](tmp_path, x), [IMAGE], preset("a8w8", calibration_samples=4)) as stream:
        assert np.array_equal(stacked(stream), x[:4])
        assert np.array_equal(stacked(stream), x[:4])
        assert stream.samples == 4


def test_batches_are_fed_as_they_come() -> None:
    x = samples(6)
    with open_samples([x[:4], x[4:]], [IMAGE], RECIPE) as stream:
        assert [f["x"].shape[0] for f in stream] == [4, 2]
        assert stream.samples == 6


def test_a_bad_sample_says_which_and_every_pass_says_it_again() -> None:
    x = list(samples(3))
    x[1] = x[1].copy()
    x[1][0, 0, 0] = np.nan
    for source in (iter(x), x):
        stream = open_samples(source, [IMAGE], RECIPE)
        for _ in range(2):
            with pytest.raises(DataError, match=r"sample 1, input 'x': .*NaN"):
                list(stream)
        assert len(stream.first(1)) == 1


def test_a_bad_file_names_itself(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    with pytest.raises(DataError, match=r"sample 2 of x\.npy, input 'x': .*NaN"):
        list(
            open_samples(
                save_npy(tmp_path / "one", np.where(np.arange(4)[:, None, None, None] == 2, np.nan, samples(4))),
                [IMAGE],
                RECIPE,
            )
        )
    (tmp_path / "one" / "x.npy").unlink()
    np.save(tmp_path / "a.npy", samples(1))
    np.save(tmp_path / "b.npy", samples(1)[:, :, :2])
    with pytest.raises(DataError, match=r"file b\.npy, input 'x': got shape \(1, 3, 2, 5\)"):
        list(open_samples(tmp_path, [IMAGE], RECIPE))


@pytest.mark.parametrize("data", [[], iter([]), np.zeros((0, 3, 4, 5), np.float32), Reader(samples(0))])
def test_empty_data_are_refused_on_every_pass(data: Any) -> None:
    stream = open_samples(data, [IMAGE], RECIPE)
    for _ in range(2):
        with pytest.raises(DataError, match="empty"):
            list(stream)


def test_what_is_no_data_is_refused(tmp_path: Path) -> None:
    for get_next in (None, lambda batch: None):
        with pytest.raises(DataError, match="get_next must be a method without arguments"):
            open_samples(SimpleNamespace(get_next=get_next), [IMAGE], RECIPE)
    with pytest.raises(DataError, match="not bytes"):
        open_samples(b"folder", [IMAGE], RECIPE)
    with pytest.raises(DataError, match="not int"):
        open_samples(3, [IMAGE], RECIPE)
    with pytest.raises(DataError, match="No such calibration data"):
        open_samples(tmp_path / "none", [IMAGE], RECIPE)
    with pytest.raises(DataError, match=r"holds no \.npy, \.npz or image files"):
        open_samples(tmp_path, [IMAGE], RECIPE)
    for name, content in (("x.npy", b"junk"), ("x.npz", b"junk"), ("x.txt", b"text")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name.replace(".", r"\.")):
            open_samples(tmp_path / name, [IMAGE], RECIPE)
    np.savez(tmp_path / "objects.npz", np.array([{}], dtype=object))
    with pytest.raises(DataError, match="Python objects"):
        open_samples(tmp_path / "objects.npz", [IMAGE], RECIPE)


def test_a_damaged_npz_is_an_error_not_other_data(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, np.zeros((50, 3, 4, 5), np.float32))
    broken = bytearray(path.read_bytes())
    broken[len(broken) // 2] ^= 1  # still finite: only the checksum knows
    path.write_bytes(broken)
    with pytest.raises(DataError, match=r"Cannot read .*x\.npz.*CRC"):
        list(open_samples(path, [IMAGE], RECIPE))


@pytest.mark.parametrize(("offset", "value"), [(8, 0xFF), (6, 1)])  # of the directory: how it is packed, encrypted
def test_an_npz_that_cannot_be_unpacked_is_named(tmp_path: Path, offset: int, value: int) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, samples(1))
    broken = bytearray(path.read_bytes())
    entry = broken.index(b"PK\x01\x02")
    broken[entry + 2 + offset] = value
    path.write_bytes(broken)
    with pytest.raises(DataError, match=r"Cannot read .*x\.npz"):
        list(open_samples(path, [IMAGE], RECIPE))


def test_an_npz_stored_by_columns_is_read_right(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", np.asfortranarray(samples(3)))
    assert np.array_equal(stacked(open_samples(tmp_path / "f.npz", [IMAGE], RECIPE)), samples(3))


def test_a_list_of_alike_arrays_is_no_sample_with_labels() -> None:
    x = samples(4)
    stacked_wrong = open_samples([list(x), list(x)], [IMAGE], RECIPE)
    with pytest.raises(DataError, match="list of 4 arrays of one shape: stack those"):
        stacked_wrong.first(1)
    with open_samples([[x[:2], np.zeros(2)], [x[2:], np.ones(2)]], [IMAGE], RECIPE) as stream:
        assert stream.samples == 4
    with open_samples([[x[:2], x[1:3], x[2:]], [x[2:], x[:2], x[:2]]], [IMAGE], RECIPE) as triplets:
        assert np.array_equal(stacked(triplets), x)


def test_an_array_cannot_feed_two_inputs() -> None:
    for data in (samples(2), iter([samples(1)])):
        with pytest.raises(DataError, match="2 inputs"):
            list(open_samples(data, TWO, RECIPE))
    with pytest.raises(DataError, match="different numbers of samples"):
        list(open_samples({"a": np.zeros((3, 2)), "ids": np.zeros((4, 3), np.int64)}, TWO, RECIPE))


def test_a_closed_or_forgotten_stream_frees_its_file() -> None:
    stream = open_samples(iter(samples(2)), [IMAGE], RECIPE)
    list(stream)
    stream.close()
    with pytest.raises(ValueError, match="closed"):
        list(stream)
    forgotten = open_samples(iter(samples(2)), [IMAGE], RECIPE)
    list(forgotten)
    del forgotten
    gc.collect()  # an unclosed file would be a ResourceWarning, an error here


def test_no_room_for_the_spool_is_said_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("equiquant.calibrate.data.stream.tempfile.TemporaryFile", full)
    with pytest.raises(DataError, match=r"No space left.*TMPDIR"):
        list(open_samples(iter(samples(2)), [IMAGE], RECIPE))


def test_a_write_that_was_cut_short_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    class Small(io.BytesIO):
        def write(self, data: Any) -> int:
            if self.tell() >= 5000:
                raise OSError(28, "No space left on device")
            return super().write(bytes(data)[:100])

    kept = samples(2)
    monkeypatch.setattr("equiquant.calibrate.data.stream.tempfile.TemporaryFile", lambda **_: Small())
    with open_samples(iter(kept[:1]), [IMAGE], RECIPE) as stream:
        for _ in range(2):
            (feed,) = stream
            np.testing.assert_array_equal(feed["x"], kept[:1])
    with pytest.raises(DataError, match=r"No space left.*TMPDIR"):
        list(open_samples(iter(np.repeat(kept, 20, axis=0)), [IMAGE], RECIPE))


def test_no_data_gives_32_synthetic_samples() -> None:
    with open_samples(None, [IMAGE], RECIPE) as stream:
        assert stream.synthetic
        assert stream.samples == 32
        assert np.array_equal(stacked(stream), stacked(stream))
