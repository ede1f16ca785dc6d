"""Ops without a rule: whatever they touch keeps its scale."""

from tests.equalization.support import Case

IN = "a = Conv<pads=[1,1,1,1]>(x, w1) "
W = {"w1": (6, 4, 3, 3), "w2": (2, 6, 1, 1)}


def unknown(op: str, nodes: str) -> Case:
    return Case(
        f"{op} has no rule",
        IN + nodes + " y = Conv(r, w2)",
        pinned={"a": op, "r": op},
        outputs="float[P,Q,R,S] y",
        weights=W,
    )


CASES = [
    unknown("Gelu", "r = com.microsoft.Gelu(a)"),
    unknown("Einsum", 'r = Einsum<equation="nchw->nchw">(a)'),
    unknown("Elu", "r = Elu(a)"),
    unknown("Tanh", "r = Tanh(a)"),
    unknown("LRN", "r = LRN<size=3>(a)"),
    unknown("LpNormalization", "r = LpNormalization<axis=1>(a)"),
    unknown("CumSum", "k = Constant<value_int=2>() r = CumSum(a, k)"),
    unknown("Round", "r = Round(a)"),
]
