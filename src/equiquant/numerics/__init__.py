"""Numbers only: affine arithmetic, scale searches, histograms and solvers. Knows numpy, never ONNX."""
