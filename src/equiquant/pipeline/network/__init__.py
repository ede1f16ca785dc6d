"""The graph before its scales: folded, rewritten for the target, proven to be the same function."""
