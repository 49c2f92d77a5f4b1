"""A pruned classifier from padded ids to logits as one call, for inference on a CPU. See README.md."""
