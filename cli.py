"""The two commands, stdc-convert and stdc-align."""
