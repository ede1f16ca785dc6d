"""Running figures of streams of values, exact and mergeable, and the distance between two streams."""
