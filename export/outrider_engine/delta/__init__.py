"""Updates as differences: what must be sent so that a device that holds one file can make another of it."""
