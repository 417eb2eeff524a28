"""The event log to NATS."""
