"""The one error that commands show to users without a traceback."""


class UserError(Exception):
    """Something the user gave cannot be used; the message names the thing, the rule and the value."""
