"""Keeping the chip cool: the agent lowers its own rate before the chip lowers its clock."""
