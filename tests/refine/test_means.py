"""Mean inputs and outputs, against the means of what the nodes really read and give."""

from __future__ import annotations

import numpy as np

from equiquant.io import Runner
from equiquant.refine.forms import Form
from equiquant.refine.means import InputMean, output_means
from tests.qdq.support import noise, parse

TEXT = """g (float[N, 3, H, W] x) => (float[N, 5] y) {
  a = Conv<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(x, w1, b1)
  r = Relu(a)
  p = GlobalAveragePool(r)
  f = Flatten(p)
  m = MatMul(f, w2)
  y = Gemm<transB=1>(m, w3, b3)
}"""


def test_output_means_are_those_of_every_sample_so_far() -> None:
    """Samples of different sizes and batches count by the batch; MatMul, which takes no bias, is left out."""
    model = parse(
        TEXT,
        w1=noise(4, 3, 3, 3, seed=1),
        b1=noise(4, seed=2),
        w2=noise(4, 4, seed=3),
        w3=noise(5, 4, seed=4),
        b3=noise(5, seed=5),
    )
    names = [node.name or "" for node in model.graph]
    conv, gemm = names[0], names[-1]
    feeds = [{"x": noise(*shape, seed=k)} for k, shape in enumerate([(1, 3, 8, 8), (3, 3, 5, 9), (2, 3, 8, 8)])]
    means = output_means(model, names, feeds)
    assert set(means.sums) == {conv, gemm}
    runner = Runner(model, ["a", "y"])
    for count in (1, 3):
        runs = [runner.run(feed) for feed in feeds[:count]]
        for index, layer in enumerate((conv, gemm)):
            each = [run[index].reshape(*run[index].shape[:2], -1).mean(axis=2) for run in runs]
            np.testing.assert_allclose(means.of(layer, count), np.concatenate(each).mean(axis=0), rtol=1e-4, atol=1e-5)


def test_input_mean_takes_the_zero_point_and_the_scale_out() -> None:
    mean, form = InputMean(), Form("Gemm", (4, 6), transposed=True)
    integers = np.random.default_rng(0).integers(0, 256, (10, 6)).astype(np.uint8)
    mean.add(integers[:3])
    mean.add(integers[3:])
    expected = (integers.astype(np.float64) - 7).mean(axis=0) * 0.5
    np.testing.assert_allclose(mean.columns(form, 7, 0.5), expected[None], rtol=1e-12)
