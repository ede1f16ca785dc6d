"""Quantize a model with the documented configuration, as a script for AMD Quark ONNX does it.

    python examples/quantize_documented.py model.onnx model-int8.onnx
    python examples/quantize_documented.py model.onnx model-int8.onnx --data calibration.npy

The .npy file holds calibration samples along its first axis. Without one, synthetic inputs are used, with a warning.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import onnx

from equiquant import (
    CalibrationDataReader,
    Config,
    ModelQuantizer,
    PowerOfTwoMethod,
    QuantFormat,
    QuantizationConfig,
    QuantType,
)


class Samples(CalibrationDataReader):  # type: ignore[misc]
    """Hands out the samples of an array one by one."""

    def __init__(self, path: str, input_name: str) -> None:
        self.samples = iter(np.load(path, mmap_mode="r"))
        self.input_name = input_name

    def get_next(self) -> dict[str, Any] | None:
        """Return the next feed, or None at the end."""
        sample = next(self.samples, None)
        return None if sample is None else {self.input_name: np.asarray(sample[None], np.float32)}


def main() -> None:
    """Quantize, and say what the report says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input_model_path")
    parser.add_argument("output_model_path")
    parser.add_argument("--data", help="a .npy file of calibration samples")
    args = parser.parse_args()

    reader = None
    if args.data:
        graph = onnx.load(args.input_model_path, load_external_data=False).graph
        weights = {w.name for w in graph.initializer}
        reader = Samples(args.data, next(i.name for i in graph.input if i.name not in weights))

    quant_config = QuantizationConfig(
        quant_format=QuantFormat.QDQ,
        calibrate_method=PowerOfTwoMethod.MinMSE,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        enable_npu_cnn=True,
        include_cle=True,
        extra_options={
            "ActivationSymmetric": True,
            "ReplaceClip6Relu": True,
            "CLESteps": 1,
            "CLEScaleAppendBias": True,
        },
    )
    quantizer = ModelQuantizer(Config(global_quant_config=quant_config))
    quantizer.quantize_model(args.input_model_path, args.output_model_path, calibration_data_reader=reader)

    assert quantizer.report is not None
    moved = quantizer.report.equalization.get("moved", 0)
    tensors = len(quantizer.report.tensors)
    print(f"Wrote {args.output_model_path}: {moved} channel scales moved, {tensors} tensors quantized.")


if __name__ == "__main__":
    main()
