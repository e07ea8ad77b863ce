"""Name what can go wrong through no fault of the program; its text is one line, meant for the user."""

from __future__ import annotations

from typing import ClassVar


class UserError(Exception):
    """Something given, found or missing that a run cannot go on with.

    The command line prints it as one line and exits with 2.
    """

    # Whether it is the options of the run that it cannot go on with: of a sweep, the trial is then refused,
    # which is no failure.
    options_are_at_fault: ClassVar[bool] = False

    def __str__(self) -> str:
        """Return the message alone, whatever built-in error this also is."""
        return str(self.args[0]) if self.args else ""
