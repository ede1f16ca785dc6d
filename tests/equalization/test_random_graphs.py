"""Graphs nobody thought of: random chains, forks, residuals, concats, splits, shuffles, groups and gates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from tests.equalization.support import Case, SilentError, check

Draw = st.DrawFn
SIDE = 4


@dataclass
class Sketch:
    """A graph being drawn: its nodes, its weights, and the channels of every 4 by 4 tensor so far."""

    nodes: list[str] = field(default_factory=list)
    weights: dict[str, Any] = field(default_factory=dict)
    channels: dict[str, int] = field(default_factory=lambda: {"x": 4})

    def weight(self, value: Any) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = value
        return name

    def ints(self, *values: int) -> str:
        return self.weight(np.array(values, dtype=np.int64))

    def name(self) -> str:
        return f"t{len(self.nodes)}"

    def put(self, call: str, channels: int) -> str:
        name = self.name()
        self.nodes.append(f"{name} = {call}")
        self.channels[name] = channels
        return name

    def step(self, call: str) -> str:
        """Add a node whose result later nodes may not use on its own."""
        name = self.name()
        self.nodes.append(f"{name} = {call}")
        return name

    def conv(self, source: str, out: int, group: int = 1, kernel: int = 3) -> str:
        weight = self.weight((out, self.channels[source] // group, kernel, kernel))
        pad = kernel // 2
        return self.put(
            f"Conv<group={group}, pads=[{pad},{pad},{pad},{pad}]>({source}, {weight}, {self.weight((out,))})", out
        )


def elementwise(draw: Draw, g: Sketch, t: str) -> None:
    kind = draw(
        st.sampled_from(["Relu", "LeakyRelu<alpha=0.1>", "Abs", "Neg", "Identity", "Sigmoid", "Clip06", "PRelu"])
    )
    if kind == "Clip06":
        zero, six = g.weight(np.float32(0)), g.weight(np.float32(6))
        g.put(f"Clip({t}, {zero}, {six})", g.channels[t])
    elif kind == "PRelu":
        g.put(f"PRelu({t}, {g.weight((g.channels[t], 1, 1))})", g.channels[t])
    else:
        g.put(f"{kind}({t})", g.channels[t])


def constant(draw: Draw, g: Sketch, t: str) -> None:
    op = draw(st.sampled_from(["Add", "Sub", "Mul", "Max"]))
    shape = draw(st.sampled_from([(g.channels[t], 1, 1), (1, 1, 1), (SIDE, SIDE), (g.channels[t], SIDE, SIDE)]))
    operands = draw(st.permutations([t, g.weight(shape)]))
    g.put(f"{op}({operands[0]}, {operands[1]})", g.channels[t])


def convolution(draw: Draw, g: Sketch, t: str) -> None:
    channels = g.channels[t]
    groups = draw(st.sampled_from([d for d in (1, 2, 3, channels) if channels % d == 0]))
    g.conv(t, groups * draw(st.integers(1, max(1, 6 // groups))), groups, draw(st.sampled_from([1, 3])))


def join(draw: Draw, g: Sketch, t: str) -> None:
    """A residual: another tensor of as many channels, or of one channel, or a projection."""
    op = draw(st.sampled_from(["Add", "Sub", "Max", "Mean", "Mul"]))
    same = [n for n, c in g.channels.items() if c in (1, g.channels[t])]
    other = draw(st.sampled_from(same)) if draw(st.booleans()) else g.conv(t, g.channels[t], kernel=1)
    g.put(f"{op}({t}, {other})", g.channels[t])


def concat(draw: Draw, g: Sketch, t: str) -> None:
    other = draw(st.sampled_from(sorted(g.channels)))
    g.put(f"Concat<axis=1>({t}, {other})", g.channels[t] + g.channels[other])


def split(draw: Draw, g: Sketch, t: str) -> None:
    channels = g.channels[t]
    if channels == 1:
        return
    first = draw(st.integers(1, channels - 1))
    sizes = g.ints(first, channels - first)
    head = g.name()
    g.nodes.append(f"{head}, {head}b = Split<axis=1>({t}, {sizes})")
    g.channels[head], g.channels[f"{head}b"] = first, channels - first


def move(draw: Draw, g: Sketch, t: str) -> None:
    channels = g.channels[t]
    kind = draw(st.sampled_from(["shuffle", "gather", "reverse", "pad", "depth", "nhwc"]))
    if kind == "shuffle" and channels % 2 == 0:
        p = g.step(f"Reshape({t}, {g.ints(-1, 2, channels // 2, SIDE, SIDE)})")
        q = g.step(f"Transpose<perm=[0,2,1,3,4]>({p})")
        g.put(f"Reshape({q}, {g.ints(-1, channels, SIDE, SIDE)})", channels)
    elif kind == "gather":
        picks = draw(st.lists(st.integers(-channels, channels - 1), min_size=1, max_size=6))
        g.put(f"Gather<axis=1>({t}, {g.ints(*picks)})", len(picks))
    elif kind == "reverse":
        g.put(f"Slice({t}, {g.ints(-1)}, {g.ints(-100)}, {g.ints(1)}, {g.ints(-1)})", channels)
    elif kind == "pad":
        g.put(f"Pad({t}, {g.ints(0, 1, 0, 0, 0, 1, 0, 0)})", channels + 2)
    elif kind == "depth" and channels % 4 == 0:
        d = g.step(f"DepthToSpace<blocksize=2>({t})")
        g.put(f"MaxPool<kernel_shape=[2,2], strides=[2,2]>({d})", channels // 4)
    else:
        p = g.step(f"Transpose<perm=[0,2,3,1]>({t})")
        m = g.step(f"MatMul({p}, {g.weight((channels, 5))})")
        g.put(f"Transpose<perm=[0,3,1,2]>({m})", 5)


def gate(draw: Draw, g: Sketch, t: str) -> None:
    p = g.step(f"GlobalAveragePool({t})")
    e = g.step(f"Conv({p}, {g.weight((g.channels[t], g.channels[t], 1, 1))})")
    s = g.step(f"{draw(st.sampled_from(['Sigmoid', 'HardSigmoid', 'Relu']))}({e})")
    g.put(f"Mul({s}, {t})", g.channels[t])


STEPS = [convolution, convolution, elementwise, constant, join, concat, split, move, gate]


@st.composite
def cases(draw: Draw) -> Case:
    sketch = Sketch()
    last = sketch.conv("x", 4)
    for _ in range(draw(st.integers(2, 9))):
        small = [n for n, c in sketch.channels.items() if c <= 12]
        recent = [n for n in small[-4:] if n != "x"] or [last]
        draw(st.sampled_from(STEPS))(draw, sketch, draw(st.sampled_from(recent)))
    ends = list(sketch.channels)[-2:]
    for number, end in enumerate(ends):
        sketch.nodes.append(f"y{number} = Conv({end}, {sketch.weight((2, sketch.channels[end], 1, 1))})")
    return Case(
        "random",
        " ".join(sketch.nodes),
        inputs=f"float[N,4,{SIDE},{SIDE}] x",
        outputs=", ".join(f"float[] y{number}" for number in range(len(ends))),
        weights=sketch.weights,
        tolerance=5e-5,
    )


@settings(max_examples=100, derandomize=True, suppress_health_check=list(HealthCheck))
@given(cases())
def test_any_scales_preserve_any_graph(case: Case) -> None:
    try:
        check(case)
    except SilentError:
        reject()
