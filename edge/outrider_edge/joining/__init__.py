"""How a device comes by its certificate, and by the next one."""
