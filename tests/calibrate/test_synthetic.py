import numpy as np
import pytest

from equiquant.calibrate.data.feeds import Feed
from equiquant.calibrate.made_up.synthetic import SYNTHETIC_SAMPLES, pink_noise, synthetic_feeds
from equiquant.errors import DataError
from equiquant.io import InputSpec


def one(spec: InputSpec, seed: int = 0) -> np.ndarray:
    feed: Feed = next(synthetic_feeds([spec], seed))
    return feed[spec.name]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((None, 3, 32, 48), (1, 3, 32, 48)),
        ((None, None, None, None), (1, 3, 224, 224)),
        ((None, None, None, 3), (1, 224, 224, 3)),
        ((1, 3, None, None), (1, 3, 224, 224)),
        ((None, 1, 49, 10), (1, 1, 49, 10)),
        ((None, 16, None), (1, 16, 1)),
        ((None, 10), (1, 10)),
        ((2, 3, 4, 4, 4), (2, 3, 4, 4, 4)),
        ((), ()),
    ],
)
def test_shapes(shape: tuple[int | None, ...], expected: tuple[int, ...]) -> None:
    x = one(InputSpec("x", "float32", shape))
    assert x.shape == expected
    assert x.dtype == np.float32
    assert np.isfinite(x).all()


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (1, 64, 64, 3)])
def test_images_have_mean_0_std_1_correlated_channels_and_neighbours(shape: tuple[int, ...]) -> None:
    x = one(InputSpec("x", "float32", shape))
    planes = (x if shape[1] == 3 else x.transpose(0, 3, 1, 2))[0]
    assert abs(x.mean()) < 1e-3
    assert x.std() == pytest.approx(1, abs=1e-3)
    assert 0.5 < np.corrcoef(planes[0].ravel(), planes[1].ravel())[0, 1] < 0.99
    neighbours = np.corrcoef(planes[:, :, 1:].ravel(), planes[:, :, :-1].ravel())[0, 1]
    assert neighbours > 0.7  # white noise has 0


def test_the_amplitude_falls_as_one_over_f() -> None:
    rng = np.random.default_rng(0)
    power = np.mean([np.abs(np.fft.rfft(pink_noise(rng, (4096,)))) ** 2 for _ in range(20)], axis=0)
    low, high = power[8:16].mean(), power[512:1024].mean()
    assert low / high == pytest.approx(64**2, rel=0.3)


def test_the_seed_decides() -> None:
    spec = InputSpec("x", "float32", (1, 3, 8, 8))
    assert np.array_equal(one(spec, 1), one(spec, 1))
    assert not np.array_equal(one(spec, 1), one(spec, 2))
    feeds = list(synthetic_feeds([spec], 0))
    assert len(feeds) == SYNTHETIC_SAMPLES
    assert not np.array_equal(feeds[0]["x"], feeds[1]["x"])
    assert len(list(synthetic_feeds([InputSpec("x", "float32", (8, 3, 4, 4))], 0))) == SYNTHETIC_SAMPLES // 8


def test_integers_masks_and_booleans_are_plausible() -> None:
    ids = one(InputSpec("input_ids", "int64", (1, 1000)))
    assert ids.dtype == np.int64
    assert ids.min() >= 0
    assert 50 < ids.max() < 100
    assert (one(InputSpec("attention_mask", "int64", (1, 20))) == 1).all()
    assert one(InputSpec("keep", "bool", (2,))).all()
    picture = one(InputSpec("x", "uint8", (1, 32, 32, 3)))
    assert picture.dtype == np.uint8
    assert 100 < picture.mean() < 156
    assert picture.std() > 30


def test_integers_are_any_of_the_tables_entries_that_their_type_holds() -> None:
    for dtype, most in (("int64", 3000), ("int8", 128)):
        (feed,) = synthetic_feeds([InputSpec("ids", dtype, (1, 1000))], 0, 1, entries={"ids": 3000})
        assert feed["ids"].min() >= 0
        assert 0.9 * most < feed["ids"].max() < most


@pytest.mark.parametrize("name", ["image_mask", "attentionMask", "mask_1", "attention_masks"])
@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (1, 8, 8, 1), (1, 1, 16), (1, 64)])
def test_float_masks_of_as_many_axes_as_what_they_mask_show_and_hide(name: str, shape: tuple[int, ...]) -> None:
    specs = [InputSpec(name, "float32", shape), InputSpec("masked_image", "float32", (*shape[:-1], 32))]
    for feed in synthetic_feeds(specs, 0):
        assert np.isin(feed[name], (0, 1)).all()
        assert 0.1 < feed[name].mean() < 0.9
        assert feed["masked_image"].std() > 0.5
    assert len(np.unique(one(specs[0]))) > 2  # the only input masks nothing


@pytest.mark.parametrize(
    ("shape", "other"),
    [
        ((1, 8), InputSpec("embeddings", "float32", (1, 8, 16))),
        ((1, 1, 8, 8), InputSpec("embeddings", "float32", (1, 8, 16))),
        ((1, 8), InputSpec("ids", "int64", (1, 8))),
        ((1, 1, 1), InputSpec("x", "float32", (1, 16, 8))),  # nothing to see if it hid that
    ],
)
def test_float_masks_of_other_axes_than_what_they_mask_are_ones(shape: tuple[int, ...], other: InputSpec) -> None:
    feeds = synthetic_feeds([InputSpec("mask", "float32", shape), other], 0)
    assert all((feed["mask"] == 1).all() for feed in feeds)


@pytest.mark.parametrize("dtype", ["int8", "uint16", "uint32", "uint64"])
def test_every_integer_type_is_made_up(dtype: str) -> None:
    assert one(InputSpec("x", dtype, (1, 5))).dtype == dtype


def test_other_types_are_refused() -> None:
    with pytest.raises(DataError, match=r"tensor\(string\)"):
        one(InputSpec("x", "tensor(string)", (1,)))
