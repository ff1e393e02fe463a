"""Simulations: a whole system of real processes, and what can go wrong with it."""
