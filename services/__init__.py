"""Processes: everything with a side effect."""
