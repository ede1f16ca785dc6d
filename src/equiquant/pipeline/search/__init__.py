"""The walk through combinations of options, and what it judges by."""
