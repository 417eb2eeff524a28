"""What clients follow: a run's events as they come, and its end."""
