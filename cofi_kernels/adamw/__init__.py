"""AdamW with gradient clipping over all tensors of a model at once."""
