"""Final reports, posted to other programs as they come."""
