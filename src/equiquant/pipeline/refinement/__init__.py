"""What is left after the scales: biases, rounding, the layers of another precision, weights alone."""
