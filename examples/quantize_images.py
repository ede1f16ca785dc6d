"""Quantize an image model with a folder of images as calibration data.

    pip install '.[images]'
    python examples/quantize_images.py model.onnx model-int8.onnx photos/
    python examples/quantize_images.py model.onnx model-int8.onnx photos/ --preset a8w8 --mean 0.5 --std 0.5

The images become inputs as (x / 255 - mean) / std; the defaults are those of ImageNet models from torchvision. Give the
same numbers the model was trained with, or the scales will be wrong.
"""

from __future__ import annotations

import argparse

from equiquant import ImageOptions, quantize


def main() -> None:
    """Quantize, compare with the float model on some of the images, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("output")
    parser.add_argument("images", help="a folder of images")
    parser.add_argument("--preset", default="xint8")
    parser.add_argument("--mean", type=float, nargs="+", default=[0.485, 0.456, 0.406])
    parser.add_argument("--std", type=float, nargs="+", default=[0.229, 0.224, 0.225])
    parser.add_argument("--bgr", action="store_true", help="the model takes BGR")
    parser.add_argument("--samples", type=int, default=100, help="use at most this many images")
    parser.add_argument("--report", help="a folder to write report.json and report.html to")
    args = parser.parse_args()

    result = quantize(
        args.model,
        args.output,
        data=args.images,
        preset=args.preset,
        calibration_samples=args.samples,
        image=ImageOptions(mean=tuple(args.mean), std=tuple(args.std), color="BGR" if args.bgr else "RGB"),
        report_dir=args.report,
    )
    print(f"Wrote {args.output}")
    for output in (result.report.quality or {}).get("outputs", []):
        print(f"  {output['name']}: {output['sqnr_db']:.1f} dB signal over quantization noise")


if __name__ == "__main__":
    main()
