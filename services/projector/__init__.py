"""Recorded events to read models."""
