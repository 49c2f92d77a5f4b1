"""Measuring models: fair timing on noisy machines, and how many times as fast one model is as another."""
