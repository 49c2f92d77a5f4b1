"""Hard-concrete gates: sampled and deterministic masks, keep probabilities and lists of the live units."""
