"""The exception that a command line turns into a sentence."""


class UserError(ValueError):
    """A mistake the user can correct; the message names the thing, what is wrong, and what to do.

    Library code raises it where an argument, file or folder is first checked. Console scripts print
    the message and exit with status 1; any other exception is a bug and keeps its stack trace.
    """
