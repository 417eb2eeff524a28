"""Due instants to runs."""
