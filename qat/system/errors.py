"""The one error that a user's input may cause."""


class UserError(ValueError):
    """Bad input: one clear line that names the file or field, the value, and what is allowed.

    `train.py` and `evaluate.py` print it without a traceback and exit with status 2.
    """
