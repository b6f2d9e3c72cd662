"""The one error that a user's input may cause, and what others say in one line."""


class UserError(ValueError):
    """Bad input: one clear line that names the file or field, the value, and what is allowed.

    `train.py` and `evaluate.py` print it without a traceback and exit with status 2.
    """


def first_line(error: BaseException, limit: int = 240) -> str:
    """The first line of what an error of a library says, at most `limit` characters; its class where it says nothing.

    >>> first_line(ValueError(" bad ")), first_line(KeyError())
    ('bad', 'KeyError')
    """
    lines = str(error).strip().splitlines()
    return lines[0][:limit] if lines else type(error).__name__
