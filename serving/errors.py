"""The exception that commands print as one sentence."""


class UserError(ValueError):
    """A mistake the user can fix: the message names the thing, what is wrong with it, what to do.

    Raised where a flag, a file or an answer is first checked. Commands print the message and exit
    with status 1; any other exception is a bug and keeps its trace.
    """
