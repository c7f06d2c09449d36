"""The one exception that a command line turns into a sentence."""


class UserError(ValueError):
    """A mistake the user can mend: the message names the thing, what is wrong with it, what to do.

    Raised at the edge, where a flag, a file or an answer is first looked at. Commands print the
    message and exit with status 1; any other exception is a bug and keeps its trace.
    """
