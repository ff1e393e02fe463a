"""A fleet of real devices' code that takes a release with a fault in it, is taken back, and takes a good one, under faults."""
