"""What may be believed of a release: The Update Framework on both sides, signed envelopes, keys. Knows no topics and no states."""
