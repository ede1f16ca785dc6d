"""The target: what is quantized, and with which scale, zero point and type."""
