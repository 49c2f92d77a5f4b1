"""Teacher-layer by student-layer mean squared errors through the layer transform."""
