"""The port of the classifier."""
