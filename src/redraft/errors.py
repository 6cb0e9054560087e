"""The errors that end a command with one line."""


class BadInput(ValueError):
    """Something the user gave is wrong; the message is one line that names what and where."""


class Diverged(ArithmeticError):
    """The loss or its gradient is not a finite number."""
