"""The one exception that a command line turns into a sentence."""


class UserError(ValueError):
    """A mistake the user can mend: the message names the thing, what is wrong with it, what to do.

    Library code raises it at the edge, where an argument, a file or a folder is first looked at. Console
    scripts print the message and exit with status 1; any other exception is a bug and keeps its trace.
    """
