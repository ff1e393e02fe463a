"""A/B slots and the machine that brings a new model into use, or leaves the old one."""
