"""A module per resource."""
