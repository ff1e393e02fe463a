"""Benchmarks: what a layer of ours costs, as a ratio to the bare thing measured in the same run."""
