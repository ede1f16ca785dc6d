"""The graph: reading it (`query`), editing it (`edit`), what a layer costs (`cost`), its decisions (`decisions`)."""
