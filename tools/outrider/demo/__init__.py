"""The demo: the whole loop on real input, as the separate processes that a user would start."""
