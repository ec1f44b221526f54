"""A small classifier, as a repository of its own might have it."""
