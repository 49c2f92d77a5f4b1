"""The dense layer and the classifier on the first token of every sequence, for inference. See README.md."""
