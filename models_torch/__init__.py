"""The PyTorch side of each twin."""
