"""Claims runs and supervises graph children."""
