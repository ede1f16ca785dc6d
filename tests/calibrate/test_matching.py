"""Made-up inputs fit the statistics that the first BatchNormalizations have stored."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from equiquant import calibrate
from equiquant.calibrate.made_up.matching import alive, matching_texture
from equiquant.calibrate.made_up.synthetic import Texture, component, synthetic_feeds
from equiquant.io import Runner, input_specs, load_model
from equiquant.recipe import preset

SHAPE = (1, 3, 48, 48)


def trained_on(
    images: list[np.ndarray], extra: list[onnx.NodeProto] | None = None, dead: int = 0, loud: float = 1
) -> ir.Model:
    """Return x -> [extra] -> Conv -> BatchNormalization whose stored statistics are those of the images.

    The first `dead` channels are as good as zero, and so are their statistics, which no longer fit them.
    The last is `loud` times what it would be.
    """
    rng = np.random.default_rng(5)
    alive = (np.arange(16) >= dead).astype(np.float32).reshape(-1, 1, 1, 1) + np.float32(1e-10)
    alive[-1] *= loud
    weights = {"w": alive * rng.standard_normal((16, 3, 3, 3)).astype(np.float32), "scale": np.float32(0.02)}
    weights |= {name: np.ones(16, np.float32) for name in ("gamma", "mean", "var")}
    weights["beta"] = np.zeros(16, np.float32)
    source = extra[-1].output[0] if extra else "x"
    graph = helper.make_graph(
        [
            *(extra or []),
            helper.make_node("Conv", [source, "w"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *SHAPE[1:]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 16, 48, 48])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    seen = np.concatenate(Runner(load_model(model).model, ["c"]).run({"x": np.concatenate(images)}))
    variance = seen.var((0, 2, 3))
    variance[:dead] *= 0.1
    for tensor, value in zip(model.graph.initializer[3:5], (seen.mean((0, 2, 3)), variance), strict=True):
        tensor.raw_data = value.astype(np.float32).tobytes()
    return load_model(model).model


def images(offset: tuple[float, float, float], size: float, count: int = 24) -> list[np.ndarray]:
    powers = np.zeros(10)
    powers[2], powers[4], powers[7] = 0.6, 0.2, 0.2  # 1/f, brightness, each channel's own 1/f
    texture = Texture(np.array(offset), size**2 * powers)
    spec = input_specs(trained_shape())[0]
    return [feed["x"] for feed in synthetic_feeds([spec], 7, count, texture)]


def trained_shape() -> ir.Model:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *SHAPE[1:]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", *SHAPE[1:]])],
    )
    return load_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)).model


@pytest.mark.parametrize(("offset", "size"), [((0.1, -0.2, 0.3), 1.0), ((124.0, 116.0, 104.0), 58.0)])
def test_units_and_offsets_are_found(offset: tuple[float, float, float], size: float) -> None:
    model = trained_on(images(offset, size))
    found = matching_texture(model, input_specs(model)[0], 0)
    assert found is not None
    assert np.abs(found.offset - offset).max() < 0.35 * size
    assert found.powers.sum() == pytest.approx(size**2, rel=0.3)
    with calibrate.open_samples(None, input_specs(model), preset("a8w8"), model) as stream:
        made = np.concatenate([feed["x"] for feed in stream])
    seen = Runner(model, ["y"]).run({"x": made})[0]
    assert abs(np.log(seen.var((0, 2, 3)))).max() < 1.0  # normalized, as in training
    assert np.abs(seen.mean((0, 2, 3))).max() < 0.7


@pytest.mark.parametrize(("dead", "loud"), [(10, 1), (0, 1000), (10, 1000)])
def test_dead_channels_say_nothing_and_a_loud_one_not_that_all_others_are_dead(dead: int, loud: float) -> None:
    model = trained_on(images((0.1, -0.2, 0.3), 1.0), dead=dead, loud=loud)
    texture = matching_texture(model, input_specs(model)[0], 0)
    assert texture is not None
    assert np.allclose(texture.offset, (0.1, -0.2, 0.3), atol=0.2)
    assert 0.6 < texture.powers.sum() < 1.6


@pytest.mark.parametrize(
    ("variance", "living"),
    [
        ([1e-9, 2.0], [1]),
        ([1e-9] * 14 + [2.0, 3.0], [14, 15]),
        ([1.0, 2.0, 3.0, 1e12], [0, 1, 2, 3]),
        ([0.0, 1.0, 2.0, 3.0, 1e12], [1, 2, 3, 4]),
        ([1e-7, 2e-7, 3e-7], [0, 1, 2]),  # a small scale is no death
    ],
)
def test_which_channels_say_something(variance: list[float], living: list[int]) -> None:
    assert np.flatnonzero(alive(np.array(variance))).tolist() == living


def test_preprocessing_inside_the_model_is_seen_through() -> None:
    scaling = [helper.make_node("Mul", ["x", "scale"], ["s"])]
    model = trained_on(images((124.0, 116.0, 104.0), 58.0), scaling)
    found = matching_texture(model, input_specs(model)[0], 0)
    assert found is not None
    assert np.sqrt(found.powers.sum()) == pytest.approx(58, rel=0.2)


def test_nothing_is_fitted_where_nothing_is_stored() -> None:
    model = trained_shape()
    assert matching_texture(model, input_specs(model)[0], 0) is None
    behind = [helper.make_node("Relu", ["x"], ["r"])]
    bent = trained_on(images((0.0, 0.0, 0.0), 1.0), behind)
    assert matching_texture(bent, input_specs(bent)[0], 0) is None


@pytest.mark.parametrize("index", range(10))
def test_components_have_power_one_and_share_what_they_should(index: int) -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([component(index, (1, 8, 16, 3), 3, rng) for _ in range(200)])
    assert np.square(x).mean() == pytest.approx(1, rel=0.2)
    assert np.array_equal(x[..., 0], x[..., 1]) == (index < 5)
