"""Scales and ranges chosen together: the noise of rounding against that of clipping, with its solvers."""
