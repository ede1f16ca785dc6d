"""Scale classes: how many, which, bounded by what, found how fast."""

from __future__ import annotations

import cProfile

import numpy as np
import onnx_ir as ir

from equiquant.equalization import find_classes
from equiquant.equalization.builder import ClassBuilder
from equiquant.equalization.network import couplings
from equiquant.graph import edit
from tests.equalization.corpus import CASES, named
from tests.equalization.support import Case


def ids_of(case: Case, tensor: str) -> np.ndarray:
    model = case.model()
    classes = find_classes(model)
    (value,) = [v for v in classes.values if v.name == tensor]
    return classes.values[value]


def test_every_channel_of_a_chain_is_a_class_of_its_own() -> None:
    assert ids_of(named("conv chain"), "a").reshape(-1).tolist() == [1, 2, 3, 4, 5, 6]


def test_a_channel_shuffle_moves_the_classes() -> None:
    case = named("channel shuffle, batch unknown")
    assert ids_of(case, "a").reshape(-1).tolist() == [1, 2, 3, 4, 5, 6]
    assert ids_of(case, "r").reshape(-1).tolist() == [1, 4, 2, 5, 3, 6]


def test_zero_channels_are_free() -> None:
    case = named("Pad that adds zero channels")
    assert np.unique(ids_of(case, "r")).size == 9


def test_padding_an_image_one_pixel_high_keeps_its_channels_apart() -> None:
    assert np.unique(ids_of(named("Pad of an image one pixel high keeps channels apart"), "r")).size == 6


def test_depth_to_space_joins_what_meets_in_one_channel() -> None:
    dcr = ids_of(named("DepthToSpace DCR"), "a").reshape(4, 3)
    assert (dcr == dcr[0]).all()
    assert np.unique(dcr).size == 3
    crd = ids_of(named("DepthToSpace CRD"), "a").reshape(3, 4)
    assert (crd == crd[:, :1]).all()
    assert np.unique(crd).size == 3


def test_a_clip_keeps_its_classes_and_is_noted() -> None:
    case = named("Clip(0, 6) holds its channels")
    classes = find_classes(case.model())
    (site,) = classes.clips
    assert site.bound == 6.0
    assert site.ids.reshape(-1).tolist() == [1, 2, 3, 4, 5, 6]


def test_one_pin_in_a_union_pins_the_whole_class() -> None:
    builder = ClassBuilder()
    left, right, other = builder.fresh(3, 1, 0), builder.fresh(3, 1, 0), builder.fresh(3, 1, 0)
    builder.unite(left, right)
    builder.pin(right[1:2], "somewhere", "a reason")
    classes, culprit = builder.resolve()
    assert classes[left].tolist() == [1, 0, 2]
    assert classes[other].tolist() == [3, 4, 5]
    assert builder.pins[culprit[left[1]]].reason == "a reason"
    assert culprit[other].tolist() == [-1, -1, -1]


def test_couplings_have_a_row_for_every_output_and_a_column_for_every_input_channel() -> None:
    for case in CASES:
        classes = find_classes(case.model())
        for coupling in couplings(classes):
            groups, rows, columns = coupling.magnitude.shape
            assert coupling.rows.shape == (groups, rows), case.name
            assert coupling.columns.shape == (groups, columns), case.name
            assert coupling.bias is None or coupling.bias.shape == (groups, rows), case.name


def resnet(blocks: tuple[int, ...]) -> ir.Model:
    """A ResNet with bottlenecks, its weights never touched."""
    x = ir.Value(name="x", shape=ir.Shape(["N", 3, 224, 224]), type=ir.TensorType(ir.DataType.FLOAT))
    graph = ir.Graph([x], [], nodes=[], name="resnet", opset_imports={"": 17})

    def node(op: str, inputs: list[ir.Value], channels: int) -> ir.Value:
        out = ir.Value(name=f"t{len(graph)}", shape=ir.Shape(["N", channels, None, None]), type=x.type)
        graph.append(ir.Node("", op, inputs, outputs=[out], name=f"n{len(graph)}"))
        return out

    def conv(source: ir.Value, before: int, after: int, kernel: int = 1) -> ir.Value:
        shape = (after, before, kernel, kernel)
        weight = edit.add_initializer(graph, f"w{len(graph)}", np.zeros(shape, np.float32))
        bias = edit.add_initializer(graph, f"b{len(graph)}", np.zeros(after, np.float32))
        return node("Conv", [source, weight, bias], after)

    t, before = node("Relu", [conv(x, 3, 64, 7)], 64), 64
    for stage, count in enumerate(blocks):
        width = 64 << stage
        for block in range(count):
            u = node("Relu", [conv(t, before, width)], width)
            u = node("Relu", [conv(u, width, width, 3)], width)
            u = conv(u, width, 4 * width)
            shortcut = conv(t, before, 4 * width) if block == 0 else t
            t, before = node("Relu", [node("Add", [u, shortcut], 4 * width)], 4 * width), 4 * width
    out = node("GlobalAveragePool", [t], before)
    graph.outputs.append(out)
    return ir.Model(graph, ir_version=8)


def test_work_grows_with_the_depth_of_a_resnet() -> None:
    def calls(blocks: tuple[int, ...], layers: int) -> int:
        profile = cProfile.Profile()
        classes = profile.runcall(find_classes, resnet(blocks))
        assert sum(s.role == "weight" for s in classes.slots) == layers
        return sum(entry.callcount for entry in profile.getstats())

    calls((1, 1, 1, 1), 17)
    assert calls((3, 8, 36, 3), 155) < 3.5 * calls((3, 4, 6, 3), 53)  # 2.9 times the layers
