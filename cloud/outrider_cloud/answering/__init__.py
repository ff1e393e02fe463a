"""From the queue to the answer: batched, asked about, combined by a strategy, committed, told."""
