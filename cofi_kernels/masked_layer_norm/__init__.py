"""Dropout, residual and LayerNorm over the hidden dims that are kept."""
