"""Running what was written for other tools."""
