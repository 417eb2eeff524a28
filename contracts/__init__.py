"""What crosses a process boundary: structs without logic."""
