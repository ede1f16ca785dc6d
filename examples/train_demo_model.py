"""Train the bundled demo model: a small MobileNet on scikit-learn's handwritten digits, the ordinary way.

    pip install equiquant[train]
    python examples/train_demo_model.py

The layout of MobileNetV1 at width 0.25 (Howard et al., arXiv:1704.04861): depthwise-separable blocks with
BatchNormalization and ReLU6. SGD with momentum 0.9, weight decay 5e-4 and a cosine schedule from 0.1, one fixed seed,
one fixed split. The 8x8 digits (1797 of them) are enlarged to 16x16 bytes. The ONNX graph is built node by node from
the trained weights, BatchNormalization unfolded, and checked against PyTorch. Writes digits_mobilenet.onnx and
digits.npz (calibration and held-out images, held-out labels). Takes about four minutes on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from torch import nn

ASSETS = Path(__file__).parent.parent / "src" / "equiquant" / "assets"
# The last block is left out, to stay small; the stem keeps the resolution, as the images are small.
STEM = 8
BLOCKS = (  # (output channels, stride of the depthwise convolution)
    (16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2),
    (128, 1), (128, 1), (128, 1), (128, 1), (128, 1), (256, 1),
)  # fmt: skip
TRAIN, CALIBRATION = 1097, 100  # the remaining 600 are held out
SEED = 0


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return Conv, BatchNormalization, ReLU6."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    )


class MobileNet(nn.Module):  # type: ignore[misc]
    """A stem, depthwise-separable blocks, global average pooling, one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        layers = [conv(1, STEM, 3)]
        channels = STEM
        for outputs, stride in BLOCKS:
            layers += [conv(channels, channels, 3, stride, groups=channels), conv(channels, outputs, 1)]
            channels = outputs
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits (N, 10) of images (N, 1, 16, 16) in [0, 1]."""
        logits: torch.Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Return the images (1797, 1, 16, 16) as bytes and their labels, in a fixed random order."""
    data = load_digits()
    images = torch.tensor(data.images[:, None] / 16.0, dtype=torch.float32)
    images = nn.functional.interpolate(images, size=(16, 16), mode="bilinear", align_corners=False)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SEED))
    return (images * 255).round().to(torch.uint8)[order], torch.tensor(data.target)[order]


def train(model: MobileNet, images: torch.Tensor, labels: torch.Tensor, epochs: int) -> None:
    """Train in place: SGD, momentum 0.9, weight decay 5e-4 on every parameter, cosine schedule, shifts of ±2 pixels."""
    batch = 64
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    steps = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for epoch in range(epochs):
        order = torch.randperm(len(images))
        total = 0.0
        for k in range(len(images) // batch):
            index = order[k * batch : (k + 1) * batch]
            dy, dx = (int(v) for v in torch.randint(0, 5, (2,)))
            x = nn.functional.pad(images[index].float() / 255, (2, 2, 2, 2))[:, :, dy : dy + 16, dx : dx + 16]
            loss = nn.functional.cross_entropy(model(x), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        if (epoch + 1) % 50 == 0:
            print(f"epoch {epoch + 1:3d}  loss {total * batch / len(images):.4f}", flush=True)
    model.eval()


def to_onnx(model: MobileNet) -> onnx.ModelProto:
    """Return the model as an ONNX graph, opset 17, dynamic batch, ReLU6 as Clip(0, 6)."""
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def store(name: str, array: Any) -> str:
        weights.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
        return name

    low, high = store("relu6.min", 0.0), store("relu6.max", 6.0)
    x = "image"
    for index, layer in enumerate(model.features):
        c, bn = layer[0], layer[1]
        name = "stem" if index == 0 else f"block{(index + 1) // 2}.{'depthwise' if index % 2 else 'pointwise'}"
        kernel, pad = list(c.kernel_size), list(c.padding) * 2
        conv_out, bn_out, out = f"{name}.conv", f"{name}.bn", f"{name}.relu6"
        nodes.append(
            helper.make_node(
                "Conv",
                [x, store(f"{name}.weight", c.weight.detach())],
                [conv_out],
                conv_out,
                kernel_shape=kernel,
                strides=list(c.stride),
                pads=pad,
                group=c.groups,
            )
        )
        statistics = {"gamma": bn.weight, "beta": bn.bias, "mean": bn.running_mean, "variance": bn.running_var}
        parameters = [store(f"{name}.{key}", value.detach()) for key, value in statistics.items()]
        nodes.append(
            helper.make_node("BatchNormalization", [conv_out, *parameters], [bn_out], bn_out, epsilon=float(bn.eps))
        )
        nodes.append(helper.make_node("Clip", [bn_out, low, high], [out], out))
        x = out
    linear = model.classifier
    parameters = [store("classifier.weight", linear.weight.detach()), store("classifier.bias", linear.bias.detach())]
    nodes += [
        helper.make_node("GlobalAveragePool", [x], ["pool"], "pool"),
        helper.make_node("Flatten", ["pool"], ["flatten"], "flatten"),
        helper.make_node("Gemm", ["flatten", *parameters], ["logits"], "classifier", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "digits_mobilenet",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        weights,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def main() -> None:
    """Train, export, check, store, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ASSETS, help="folder to write to")
    parser.add_argument("--epochs", type=int, default=300)
    args = parser.parse_args()

    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    images, labels = digits()
    model = MobileNet()
    train(model, images[:TRAIN], labels[:TRAIN], args.epochs)

    held_out, held_out_labels = images[TRAIN + CALIBRATION :], labels[TRAIN + CALIBRATION :]
    with torch.no_grad():
        logits = model(held_out.float() / 255).numpy()
    proto = to_onnx(model)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": held_out.numpy().astype(np.float32) / 255})
    difference = float(np.abs(found - logits).max() / np.abs(logits).max())
    if difference > 1e-5:
        raise SystemExit(f"The ONNX graph differs from PyTorch by {difference:.1e} of the output's magnitude.")

    args.output.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, args.output / "digits_mobilenet.onnx")
    np.savez_compressed(
        args.output / "digits.npz",
        calibration=images[TRAIN : TRAIN + CALIBRATION].numpy(),
        images=held_out.numpy(),
        labels=held_out_labels.numpy().astype(np.uint8),
    )
    accuracy = np.mean(logits.argmax(1) == held_out_labels.numpy())
    print(f"held-out accuracy {accuracy:.2%}, ONNX equals PyTorch to {difference:.1e}")
    print("largest |weight| per output channel, BatchNormalization folded:")
    for index, layer in enumerate(model.features):
        scale = (layer[1].weight / torch.sqrt(layer[1].running_var + layer[1].eps)).detach()
        ranges = (layer[0].weight.detach() * scale[:, None, None, None]).abs().amax((1, 2, 3)).numpy()
        top = ranges.max()
        print(
            f"layer {index:2d}: max {top:8.3g}, max / median {top / np.median(ranges):8.1f},"
            f" channels under 1% of the largest {np.mean(ranges < 0.01 * top):4.0%}"
        )


if __name__ == "__main__":
    main()
