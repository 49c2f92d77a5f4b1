"""Token embeddings with their LayerNorm, for inference."""
