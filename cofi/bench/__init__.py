"""The command that compares a pruned model with its original and with rivals, and says what bounds its sublayers."""
