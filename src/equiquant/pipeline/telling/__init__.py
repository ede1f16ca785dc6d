"""What the user must know of the result: what is lost, what is worth trying, what goes into the report."""
