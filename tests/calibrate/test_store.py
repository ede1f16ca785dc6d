"""Statistics as things: saved, loaded, checked, merged."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equiquant.calibrate import TensorStats, check_model, collect, load_stats, model_hash, open_samples, save_stats
from equiquant.errors import DataError, OutputError
from equiquant.graph import edit
from equiquant.numerics.statistics.histogram import DyadicHistogram
from equiquant.recipe import preset
from tests.calibrate.support import IMAGE, relu_model, samples

XINT8 = preset("xint8", minmse_mode="most_common", unsigned_relu=True)
NAMES = ["x", "double", "y"]


def stats_of(x: np.ndarray, batch: int = 1) -> TensorStats:
    feeds = [x[i : i + batch] for i in range(0, len(x), batch)]
    return collect(relu_model(), open_samples(feeds, [IMAGE], XINT8), NAMES, XINT8, channels={"y": 1, "double": 3})


def saved(stats: TensorStats, folder: Path, name: str) -> bytes:
    save_stats(stats, folder / name)
    return (folder / name).read_bytes()


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    stats = stats_of(samples(5))
    recount = {"x": DyadicHistogram.of(samples(5))}
    full = TensorStats(5, stats.tensors, True, "abc", False, recount)
    first = saved(full, tmp_path, "a")
    loaded = load_stats(tmp_path / "a")
    assert (loaded.samples, loaded.synthetic, loaded.model_hash) == (5, True, "abc")
    assert loaded.recounted == recount
    assert loaded.histogram("x") == recount["x"]
    assert loaded.histogram("y") == stats.tensors["y"].histogram
    for name, record in stats.tensors.items():
        other = loaded.tensors[name]
        assert (record.low, record.high, record.count, record.histogram, record.votes) == (
            (other.low, other.high, other.count, other.histogram, other.votes)
        )
    assert loaded.tensors["y"].channels is not None
    assert stats.tensors["y"].channels is not None
    assert np.array_equal(loaded.tensors["y"].channels.mean, stats.tensors["y"].channels.mean)
    assert saved(loaded, tmp_path, "b") == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_merged_shards_are_one_run_bit_for_bit(tmp_path: Path, order: tuple[int, ...]) -> None:
    x = samples(9) * np.logspace(-3, 3, 9, dtype=np.float32)[:, None, None, None]
    shards = [stats_of(part) for part in (x[:2], x[2:3], x[3:])]
    first, *rest = (shards[i] for i in order)
    assert saved(first.merge(*rest), tmp_path, "a") == saved(stats_of(x), tmp_path, "b")
    assert saved(shards[0].merge(shards[1]), tmp_path, "a") != saved(stats_of(x), tmp_path, "b")


@pytest.mark.parametrize("batch", [2, 3, 9])
def test_batches_do_not_change_a_bit(tmp_path: Path, batch: int) -> None:
    x = samples(9)
    assert saved(stats_of(x, batch), tmp_path, "a") == saved(stats_of(x), tmp_path, "b")


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    one, two = TensorStats(1, {}, model_hash="a"), TensorStats(1, {}, model_hash="b")
    with pytest.raises(DataError, match="different models"):
        one.merge(two)
    with pytest.raises(DataError, match="Moving averages"):
        one.merge(TensorStats(1, {}, model_hash="a", averaged=True))
    with pytest.raises(DataError, match="only one of them has tensor 'double'"):
        stats_of(samples(1)).merge(TensorStats(1, {}))
    with pytest.raises(DataError, match="of another model"):
        check_model(one, tmp_path / "s", "b")


def test_damaged_and_foreign_files_say_so(tmp_path: Path) -> None:
    stats = TensorStats(1, {})
    save_stats(stats, tmp_path / "good")
    (tmp_path / "cut").write_bytes((tmp_path / "good").read_bytes()[:-30])
    np.savez(tmp_path / "foreign.npz", x=np.zeros(3))
    for name in ("cut", "foreign.npz", "missing"):
        with pytest.raises(DataError, match="Cannot read calibration statistics"):
            load_stats(tmp_path / name)
    with pytest.raises(OutputError, match="Cannot write"):
        save_stats(stats, tmp_path / "no" / "folder")


def rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    with np.load(path) as file:
        arrays = dict(file)
    about = json.loads(arrays["about"].tobytes())
    change(about)
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    with path.open("wb") as out:
        np.savez(out, **arrays)
    return path


@pytest.mark.parametrize("field", ["note", "averaged", "synthetic", "tensors"])
def test_a_file_that_lacks_something_says_what(tmp_path: Path, field: str) -> None:
    save_stats(TensorStats(1, {}), tmp_path / "s")
    with pytest.raises(DataError, match=rf"incomplete, or none of ours \('{field}'\)"):
        load_stats(rewritten(tmp_path / "s", lambda about: about.pop(field)))


def test_files_that_do_not_say_what_was_counted_are_read(tmp_path: Path) -> None:
    save_stats(TensorStats(1, {}, exact=True), tmp_path / "s")
    assert load_stats(tmp_path / "s").exact
    assert not load_stats(rewritten(tmp_path / "s", lambda about: about.pop("exact"))).exact


def test_the_hash_sees_weights_and_nodes_and_nothing_else() -> None:
    model, same, other = relu_model(), relu_model(), relu_model()
    assert model_hash(model) == model_hash(same)
    same.metadata_props["who"] = "me"
    assert model_hash(model) == model_hash(same)
    next(iter(other.graph)).name = "renamed"
    assert model_hash(model) == model_hash(other)
    edit.set_initializer(other.graph.initializers["two"], np.asarray(3, np.float32))
    assert model_hash(model) != model_hash(other)
