"""QDQ: a plan becomes QuantizeLinear and DequantizeLinear nodes."""

from equiquant.qdq.insert import insert
from equiquant.qdq.unsigned import store_unsigned

__all__ = ["insert", "store_unsigned"]
