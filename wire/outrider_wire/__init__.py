"""What both sides of the wire must agree on. Pure: no sockets, files, clock, randomness or logging."""
