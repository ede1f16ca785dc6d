"""Scales, zero points and types of what is quantized, within the limits of the target."""
