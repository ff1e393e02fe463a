"""The HTTP API that applications on the device use."""
