"""What clients see: a struct per object, and the rows that it is made from."""
