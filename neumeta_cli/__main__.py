"""``python -m neumeta_cli`` is ``neumeta``."""

import sys


def run() -> None:
    """Run the command line; Ctrl-C while it is still being imported shows no traceback."""
    try:
        from neumeta_cli.cli import main

        main()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    run()
