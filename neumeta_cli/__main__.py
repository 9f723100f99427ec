"""``python -m neumeta_cli`` is ``neumeta``."""

from neumeta_cli.cli import main

main()
