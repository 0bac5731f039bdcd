"""The one exception for mistakes that a user can mend."""


class UserError(ValueError):
    """One line: what was given, what was expected, what to do. Entry points print it and exit with 2, without a traceback."""
