"""Expected number of parameters that remain under the masks' keep probabilities."""
