"""QDQ: a plan becomes QuantizeLinear and DequantizeLinear nodes."""

from equiquant.qdq.blocks import insert_blocks
from equiquant.qdq.insert import insert
from equiquant.qdq.unsigned import store_unsigned

__all__ = ["insert", "insert_blocks", "store_unsigned"]
