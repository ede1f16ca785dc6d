"""The noise of what a Mul multiplies by and an Add adds: predicted as it is measured."""

from __future__ import annotations

import numpy as np
import pytest

from equiquant import quantize
from equiquant.backward import Gains
from equiquant.equalization import QuantizerModel, find_classes, noise_terms, operands, range_terms
from equiquant.graph import query
from equiquant.graph.edit import infer_shapes
from equiquant.io import load_model
from equiquant.numerics.scales.noise import NoiseTerm, TensorNoise, WeightNoise
from equiquant.numerics.statistics.figures import ChannelFigures
from tests.canonical.support import Array, proto, weights

NODES = "a = Conv(x, w) r = Relu(a) m = Mul(r, c) s = Add(m, t) y = Conv(s, v)"
POWER = np.array([1.0, 4.0, 9.0])  # mean square of what the Mul multiplies
GAIN = np.array([1.0, 2.0, 3.0])


def terms_of(factor: Array, added: Array, *, symmetric: bool = False) -> dict[str, NoiseTerm]:
    parameters = weights(w=(3, 3, 1, 1), v=(2, 3, 1, 1)) | {"c": factor, "t": added}
    model = load_model(proto(NODES, "float[N,3,4,4] x", "float[] y", parameters)).model
    infer_shapes(model)
    classes = find_classes(model)
    everything = [query.label(node) for node in model.graph]
    names = [query.label(slot.node) for slot in operands(classes, everything)]
    assert len(names) == 2
    figures = {"r": ChannelFigures(1, np.zeros(3), np.ones(3), np.zeros(3), POWER, np.zeros(3))}
    gains = {name: Gains(GAIN, 2 * GAIN) for name in "ms"}
    quantizer = QuantizerModel(
        nodes=names, tensors=(), symmetric=symmetric, activation_levels=127 if symmetric else 255
    )
    terms = noise_terms(classes, figures, gains, quantizer)
    weights_, tensors = range_terms(classes, terms, {}, {})
    assert [(w.name, t.name) for w, t in zip(weights_, tensors, strict=True)] == [tuple(names)]
    return dict(zip("mt", terms, strict=True))


def column(*numbers: float) -> Array:
    return np.array(numbers, np.float32).reshape(1, -1, 1, 1)


def test_a_rounded_factor_makes_noise_in_proportion_to_what_it_multiplies() -> None:
    term = terms_of(column(1, 2, 0.5), column(1, 2, 3))["m"]
    assert isinstance(term, WeightNoise)
    assert term.exact(np.zeros(99)) == pytest.approx((2 / 255) ** 2 / 12 * float(GAIN @ POWER))


@pytest.mark.parametrize(("symmetric", "step"), [(False, 4 / 255), (True, 2 / 127)])
def test_factors_of_both_signs_need_twice_the_steps(symmetric: bool, step: float) -> None:
    term = terms_of(column(1, -2, 0.5), column(1, 2, 3), symmetric=symmetric)["m"]
    assert term.exact(np.zeros(99)) == pytest.approx(step**2 / 12 * float(GAIN @ POWER))


@pytest.mark.parametrize(
    ("added", "width"), [(column(1, 2, 3), 3.0), (column(-1, -2, -3), 3.0), (column(-1, 2, 3), 4.0)]
)
def test_a_rounded_summand_shifts_its_channel(added: Array, width: float) -> None:
    term = terms_of(column(1, 2, 0.5), added)["t"]
    assert isinstance(term, TensorNoise)
    assert term.exact(np.zeros(99)) == pytest.approx((width / 255) ** 2 / 12 * float(2 * GAIN.sum()))


def test_what_differs_within_a_channel_does_not_add_up() -> None:
    added = np.arange(48, dtype=np.float32).reshape(1, 3, 4, 4)
    term = terms_of(column(1, 2, 0.5), added)["t"]
    assert term.exact(np.zeros(99)) == pytest.approx((47 / 255) ** 2 / 12 * float(GAIN.sum()))


def test_a_factor_between_two_free_channels_is_kept_in_range() -> None:
    """A factor could take any scale there is, and the next weight give it back: only its own noise holds it."""
    parameters = weights(w=(3, 3, 1, 1), v=(2, 3, 3, 3)) | {"c": column(1, -2, 0.5), "t": column(1, 2, 3)}
    parameters["w"] *= np.array([1, 1e-3, 1e3], np.float32).reshape(3, 1, 1, 1)
    parameters["v"] *= np.array([1, 1e3, 1e-3], np.float32).reshape(1, 3, 1, 1)
    nodes = NODES.replace("Conv(s, v)", "Conv<pads = [1, 1, 1, 1]>(s, v)")
    data = np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32)
    model = proto(nodes, "float[N,3,8,8] x", "float[] y", parameters)
    report = quantize(model, None, data=data, preset="a8w8", weight_rounding="nearest").report
    predicted = {row["name"]: row[report.equalization["method"]] for row in report.equalization["noise"]}
    assert min(predicted[name] for name in ("Mul_m", "Add_s")) > 30
    assert report.quality is not None
    assert report.quality["outputs"][0]["sqnr_db"] > 30
