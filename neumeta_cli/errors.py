"""The exceptions that users see."""


class NeumetaError(Exception):
    """Something the user can act on.

    The message is one line: what went wrong, where, and what to do about it. The command line
    prints it to stderr and exits with code 1; ``--debug`` shows the traceback as well.
    """


class StoppedRunError(NeumetaError):
    """A run was asked to stop and has saved where it stands; exit code 130."""
