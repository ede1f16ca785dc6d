"""The inputs of a network: which are kept as they are, and the ranges and steps of the others."""
