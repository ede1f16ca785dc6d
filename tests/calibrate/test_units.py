"""Without BatchNormalizations the first layers tell pixels, of 0 to 255 or to 1, from normalized images."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from equiquant import quantize
from equiquant.calibrate.made_up.synthetic import synthetic_feeds
from equiquant.calibrate.made_up.units import guessed_units
from equiquant.io import InputSpec, Runner
from tests.backward.support import noise, parse


def spec_of(channels: int = 3, dtype: str = "float32") -> InputSpec:
    return InputSpec("x", dtype, (None, channels, 32, 32))


def images(scale: float = 1.0, offset: float = 0.0, channels: int = 3) -> np.ndarray:
    feeds = synthetic_feeds([spec_of(channels)], 5, 8)
    return np.concatenate([np.clip(feed["x"], -2, 2) * np.float32(scale) + np.float32(offset) for feed in feeds])


PIXELS = 64.0, 128.0


def trained_on(
    seen: np.ndarray, layers: int = 4, *, biases: bool = True, loud: float = 1.0, louder: float = 1.0
) -> ir.Model:
    """Return Convs with Relus between them whose outputs have means of about their deviations on the images.

    Args:
        seen: The images.
        layers: How many.
        biases: Whether they have any.
        loud: Deviation of the first one's channels.
        louder: That of the others.
    """
    channels, body, weights, source = seen.shape[1], "", {}, "x"
    for k in range(layers):
        body += f" y{k} = Conv <pads = [1, 1, 1, 1]> ({source}, w{k}, b{k}) r{k} = Relu (y{k})"
        weights[f"w{k}"] = noise(12, channels if k == 0 else 12, 3, 3, seed=k)
        weights[f"b{k}"] = np.zeros(12, np.float32)
        source = f"r{k}"
    text = f"g (float[N,{channels},32,32] x) => (float[N,12,32,32] {source}) {{ {body} }}"
    for k in range(layers if biases else 0):
        (before,) = Runner(parse(text, 17, **weights), [f"y{k}"]).run({"x": seen})
        mean, deviation = before.mean((0, 2, 3)), before.std((0, 2, 3)) / (louder if k else loud)
        weights[f"w{k}"] = weights[f"w{k}"] / deviation[:, None, None, None]
        weights[f"b{k}"] = noise(12, seed=10 + k) - mean / deviation
    return parse(text, 17, **weights)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("offset", [128.0, 0.0])
def test_a_model_that_was_trained_on_pixels_gets_them(channels: int, offset: float) -> None:
    model = trained_on(images(64.0, offset, channels))
    found = guessed_units(model, spec_of(channels), 0)
    assert found is not None
    (feed,) = synthetic_feeds([spec_of(channels)], 0, 1, found[0])
    assert feed["x"].min() < -100
    assert feed["x"].max() > 200


def test_one_whose_first_layer_is_loud_gets_pixels_of_0_to_1() -> None:
    model = trained_on(images(0.25, 0.5), loud=8.0)
    found = guessed_units(model, spec_of(), 0)
    assert found is not None
    (feed,) = synthetic_feeds([spec_of()], 0, 1, found[0])
    assert -0.8 < feed["x"].min() < 0.1
    assert 0.9 < feed["x"].max() < 1.7
    assert "one of 29" in found[1]  # about 8 / 0.25
    assert guessed_units(trained_on(images(0.25, 0.5), loud=8.0, louder=100.0), spec_of(), 0) is None


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (0.5, 0.0), (0.25, 0.5)])
def test_one_that_was_trained_on_normalized_images_does_not(scale: float, offset: float) -> None:
    assert guessed_units(trained_on(images(scale, offset)), spec_of(), 0) is None


def test_where_nothing_tells_it_does_not_either() -> None:
    pixels = images(*PIXELS)
    assert guessed_units(trained_on(pixels, layers=2), spec_of(), 0) is None  # too few layers
    assert guessed_units(trained_on(pixels, biases=False), spec_of(), 0) is None
    assert guessed_units(trained_on(images(*PIXELS, channels=7)), spec_of(7), 0) is None  # no colors
    assert guessed_units(trained_on(pixels), spec_of(dtype="uint8"), 0) is None
    assert guessed_units(trained_on(images(1e6)), spec_of(), 0) is None  # neither
    assert guessed_units(trained_on(pixels, loud=0.01), spec_of(), 0) is None  # weights and biases are tiny


@pytest.mark.filterwarnings("ignore:No calibration data")
def test_a_run_without_data_covers_pixels_and_says_so() -> None:
    report = quantize(trained_on(images(*PIXELS)), preset="a8w8").report.to_dict()
    source = next(t for t in report["tensors"] if t["name"] == "x")
    assert 255 * source["scale"] > 300
    assert ["0 to 255" in d["reason"] for d in report["decisions"] if d["rule"] == "units"] == [True]
    report = quantize(trained_on(images()), preset="a8w8").report.to_dict()
    assert not [d for d in report["decisions"] if d["rule"] == "units"]
