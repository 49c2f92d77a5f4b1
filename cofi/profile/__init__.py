"""Latency profiles: what sublayers of every size cost where a model is deployed, measured once, read by training."""
