"""Self-attention sublayer under head, layer and hidden masks."""
