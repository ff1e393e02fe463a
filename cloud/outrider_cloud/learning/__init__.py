"""Learning from what was escalated: examples in, a distilled and gated candidate bundle out."""
