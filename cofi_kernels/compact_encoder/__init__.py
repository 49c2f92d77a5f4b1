"""The pruned encoder, different in every layer, as one call."""
