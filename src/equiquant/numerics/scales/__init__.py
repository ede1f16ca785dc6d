"""Scales of channel classes that make the least noise, every range reaching its maximum: the equalization solvers."""
