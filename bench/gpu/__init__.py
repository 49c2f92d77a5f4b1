"""The whole GPU benchmark as one command: python -m bench.gpu."""
