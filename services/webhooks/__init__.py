"""Webhooks: whoever is to hear of a run's end is told, until it is told or given up."""
