"""What operators and targets are, as data: one row an operator, a target, a limit."""
