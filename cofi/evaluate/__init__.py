"""The command that says how good a saved model is."""
