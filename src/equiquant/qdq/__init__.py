"""QDQ: a plan becomes QuantizeLinear and DequantizeLinear nodes."""

from equiquant.qdq.insert import insert

__all__ = ["insert"]
