"""The version, as pyproject.toml has it: asking the installed package takes as long as a small conversion."""

VERSION = "0.1.0"
