"""The graph: reading it (`query`), editing it (`edit`), and what each op is (`ops`)."""
