"""What clients ask to be done: decided, appended, and until it shows."""
