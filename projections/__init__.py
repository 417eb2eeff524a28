"""Recorded events to read models, one module each."""
