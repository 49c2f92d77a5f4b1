"""The command that prunes a model: recipes, phases, checkpoints."""
