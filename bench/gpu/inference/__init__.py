"""The pruned encoder on a GPU, from packed ids to logits: python -m bench.gpu --inference."""
