"""Measuring models: fair timing, the speedup a run reports, and the command that compares with rivals."""
