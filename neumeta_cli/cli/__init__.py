"""The command line: a command parses, calls one function, prints."""

from neumeta_cli.cli.app import app, main

__all__ = ["app", "main"]
