"""Feed-forward sublayer under intermediate, layer and hidden masks."""
