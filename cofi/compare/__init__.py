"""Sweeps side by side: every method against a reference at equal size and at equal measured speed."""
