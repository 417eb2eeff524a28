"""HTTP answers as clients see them: a struct per object."""
