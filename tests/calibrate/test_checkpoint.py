"""An interrupted calibration goes on where it was and ends with the same bytes."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from equiquant.calibrate import Checkpoint, TensorStats, collect, open_samples, save_stats
from equiquant.io import Runner
from equiquant.recipe import Recipe, preset
from tests.calibrate.support import IMAGE, relu_model, samples

XINT8 = preset("xint8")


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("equiquant.calibrate.checkpoint"), "INTERVAL", 0.0)


def interrupted(
    folder: Path, x: np.ndarray, at: int, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, key: str = "k"
) -> None:
    run, count = Runner.run, 0

    def failing(self: Runner, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        nonlocal count
        count += 1
        if count == at:
            raise KeyboardInterrupt
        return run(self, feed)

    monkeypatch.setattr(Runner, "run", failing)
    with pytest.raises(KeyboardInterrupt):
        gathered(folder, x, recipe, key)
    monkeypatch.setattr(Runner, "run", run)


def gathered(folder: Path, x: np.ndarray, recipe: Recipe, key: str = "k") -> tuple[TensorStats, int]:
    done: list[int] = []
    stats = collect(
        relu_model(),
        open_samples(x, [IMAGE], recipe),
        ["double", "y"],
        recipe,
        checkpoint=Checkpoint(folder / "partial", key),
        progress=done.append,
    )
    return stats, len(done)


def plain(x: np.ndarray, folder: Path) -> bytes:
    save_stats(collect(relu_model(), open_samples(x, [IMAGE], XINT8), ["double", "y"], XINT8), folder / "plain")
    return (folder / "plain").read_bytes()


def written(stats: TensorStats, folder: Path) -> bytes:
    save_stats(stats, folder / "written")
    return (folder / "written").read_bytes()


def test_only_what_is_missing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = samples(6)
    interrupted(tmp_path, x, 5, XINT8, monkeypatch)
    stats, steps = gathered(tmp_path, x, XINT8)
    assert steps == 2
    assert written(stats, tmp_path) == plain(x, tmp_path)


def test_other_data_or_another_model_start_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = samples(6)
    for other, key in ((x + 1, "k"), (x, "another"), (x[:3], "k")):
        interrupted(tmp_path, x, 5, XINT8, monkeypatch)
        stats, steps = gathered(tmp_path, other, XINT8, key)
        assert steps == len(other)
        assert written(stats, tmp_path) == plain(other, tmp_path)


def test_a_damaged_checkpoint_is_none(tmp_path: Path) -> None:
    (tmp_path / "partial").write_bytes(b"PK nothing")
    assert gathered(tmp_path, samples(3), XINT8)[1] == 3


@pytest.mark.parametrize("at", [4, 8, 10])
def test_passes_resume_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    module = importlib.import_module("equiquant.calibrate.collect")
    monkeypatch.setattr(module, "default_memory_limit", lambda: 4 * 3 * 4 * 5)  # one tensor a pass
    x = samples(6)
    interrupted(tmp_path, x, at, XINT8, monkeypatch)
    stats, steps = gathered(tmp_path, x, XINT8)
    assert steps == 12 - (at - 1)
    assert written(stats, tmp_path) == plain(x, tmp_path)


@pytest.mark.parametrize(("at", "before", "after"), [(4, 1, 2), (8, 1, 2), (10, 1, 2), (4, 2, 1), (8, 1, 3)])
def test_another_limit_of_memory_resumes_what_still_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, before: int, after: int
) -> None:
    module = importlib.import_module("equiquant.calibrate.collect")
    x = samples(6)
    monkeypatch.setattr(module, "default_memory_limit", lambda: before * 4 * 3 * 4 * 5)  # so many tensors a pass
    interrupted(tmp_path, x, at, XINT8, monkeypatch)
    monkeypatch.setattr(module, "default_memory_limit", lambda: after * 4 * 3 * 4 * 5)
    stats, _ = gathered(tmp_path, x, XINT8)
    assert stats.samples == 6
    assert written(stats, tmp_path) == plain(x, tmp_path)


def test_complete_passes_count_for_the_same_data_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first feeds of the second pass are the same: only reading all of them shows it."""
    module = importlib.import_module("equiquant.calibrate.collect")
    monkeypatch.setattr(module, "default_memory_limit", lambda: 4 * 3 * 4 * 5)  # one tensor a pass
    x = samples(6)
    interrupted(tmp_path, x, 9, XINT8, monkeypatch)
    changed = x.copy()
    changed[-1] *= 100
    stats, steps = gathered(tmp_path, changed, XINT8)
    assert steps == 12
    assert written(stats, tmp_path) == plain(changed, tmp_path)
