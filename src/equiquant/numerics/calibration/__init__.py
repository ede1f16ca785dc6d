"""The range of one tensor from the distribution of its values: one module a calibration method."""
