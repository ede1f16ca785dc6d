"""What is quantized, before any statistics: which nodes and tensors, which share parameters, and which stay float."""
