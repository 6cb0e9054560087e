"""The one error that is the user's to mend."""


class BadInput(ValueError):
    """Something the user gave is wrong; the message is one line that names what and where."""
