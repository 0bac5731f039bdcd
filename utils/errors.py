"""The one exception for mistakes that a user can mend."""


class UserError(ValueError):
    """One line that says what was given, what was expected, and what to do.

    Programs print it and exit with 2, without a traceback.
    """
