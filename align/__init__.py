"""Capture, compare, judge, localise and explain."""
