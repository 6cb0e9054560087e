"""What is wrong with a checkpoint, or worth knowing."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that was found."""

    what: str
    where: str  # where it is seen
    do: str  # what to do about it
    wrong: bool = True  # False: worth knowing, and sound all the same

    @property
    def line(self) -> str:
        """All of it in one line."""
        return f"{self.what} (seen in {self.where}); {self.do}"
