"""Calibration: read the data as a stream, run the float model, keep a few numbers per tensor."""
