"""What the noise model says of activations that are cut off and of biases that are rounded."""

from __future__ import annotations

import numpy as np
import pytest

from equiquant.backward import Gains
from equiquant.equalization import QuantizerModel, cut_ends, find_classes, noise_terms, range_terms
from equiquant.equalization.layer_noise import BIAS_LEFT, LEAST_BIAS_GAIN
from equiquant.equalization.noise_model import CUT_POWER, LEAST_CUT
from equiquant.graph.edit import infer_shapes
from equiquant.io import load_model
from equiquant.numerics.ranges.noise import COHERENCE
from equiquant.numerics.scales.noise import TensorNoise
from equiquant.numerics.statistics.figures import ChannelFigures
from equiquant.numerics.statistics.sketch import MagnitudeSketch
from tests.canonical.support import proto, weights
from tests.equalization.support import Case

CASE = Case(
    "chain",
    "a = Conv(x, w1, b1) r = Relu(a) y = Conv(r, w2)",
    weights={"w1": (3, 4, 1, 1), "b1": np.array([1.0, -2.0, 3.0], np.float32), "w2": (2, 3, 1, 1)},
)
WEIGHTS = weights(w=(3, 3, 1, 1))
WHITE, CONSTANT = np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 0.0])
SHARE = np.array([[0.5, 0.0], [0.1, 0.1], [1.0, 0.0]])  # of the values of each channel at 1 and at 2; the rest is 0


def terms_of(*, corrected: bool = False, cut: float | None = None) -> dict[tuple[str, str], TensorNoise]:
    classes = find_classes(CASE.model())
    high = np.array([1.0, 2.0, 1.0])
    figures = {"r": ChannelFigures(1, np.zeros(3), high, high / 2, np.ones(3), np.zeros(3))}
    gains = {name: Gains(WHITE, CONSTANT, cut=cut) for name in "ar"}
    quantizer = QuantizerModel(
        nodes=("Conv_a", "Conv_y"), tensors=("r",), symmetric=True, bias_levels=127.0, bias_corrected=corrected
    )
    empty = np.zeros((3, 0))
    values = np.array([1.0, 2.0])
    positive = MagnitudeSketch(values, SHARE, high, edges=0.9 * values, count=100)
    sketches = {"r": (positive, MagnitudeSketch(empty[0], empty, np.zeros(3), edges=empty[0], count=100))}
    terms = noise_terms(classes, figures, gains, quantizer, sketches)
    ranged = range_terms(classes, terms, sketches, cut_ends(classes, figures, sketches))[1]
    found = {(t.kind, t.name): t for t in terms if isinstance(t, TensorNoise)}
    assert {(t.kind, t.name) for t in ranged} == set(found)
    for tensor in ranged:
        term = found[tensor.kind, tensor.name]
        assert tensor.gain is term.gain
        assert tensor.clip_gain == pytest.approx(term.clip_gain)
    return found


@pytest.mark.parametrize(("cut", "times"), [(None, COHERENCE), (20.0, 2 * 10**CUT_POWER), (0.1, LEAST_CUT)])
def test_zeros_make_no_rounding_noise_but_what_is_cut_off_counts_in_full(cut: float | None, times: float) -> None:
    term = terms_of(cut=cut)["activation", "r"]
    assert term.gain == pytest.approx(WHITE * SHARE.sum(axis=1))
    assert term.clip_gain == pytest.approx(times * WHITE)


def test_a_range_cuts_off_what_is_large_and_told_apart() -> None:
    model = load_model(proto("a = Conv(x, w) y = HardSwish(a)", "float[N,3,4,4] x", "float[] y", WEIGHTS)).model
    infer_shapes(model)
    figure = ChannelFigures(1, np.array([-8.0, -1.0, 1.0]), np.array([6.0, 2.0, 4.0]), *np.zeros((3, 3)))
    sides = (np.array([6.0, 2.0, 4.0]), np.array([8.0, 1.0, 0.0]))
    empty = np.zeros(0)
    positive, negative = (MagnitudeSketch(empty, np.zeros((3, 0)), s, edges=empty, count=9) for s in sides)
    sketches = {"a": (positive, negative)}
    ends = cut_ends(find_classes(model), {"a": figure}, sketches)["a"]
    above, below = ends.most
    assert above == np.inf
    assert below == pytest.approx(3.0, abs=0.1)  # HardSwish makes 0 of all that lies below
    assert ends.high == pytest.approx([3.0, 1.0, 2.0])
    assert ends.low == pytest.approx([-below / 2, -0.5, 0.0])


@pytest.mark.parametrize(("corrected", "left"), [(False, 1.0), (True, BIAS_LEFT)])
def test_later_biases_take_most_of_what_a_rounded_bias_does(corrected: bool, left: float) -> None:
    term = terms_of(corrected=corrected)["bias", "Conv_a"]
    alive = np.array([10.0, 20.0, 10.0 * LEAST_BIAS_GAIN])  # the last channel is dead: a part of the mean gain
    assert term.gain == pytest.approx(left * alive)
    assert term.clip_gain == pytest.approx(COHERENCE * alive)
