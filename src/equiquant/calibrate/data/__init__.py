"""The user's data as a stream of feeds: from any source, checked, one at a time."""
