"""EquiQuant: accurate INT8 ONNX models by cross-layer equalization, without the training framework."""

__version__ = "0.1.0"
