"""Talk to the terminal: what is typed in, what is printed."""

from __future__ import annotations

from clbench.cli.app import main

__all__ = ["main"]
