"""Tell the API's pages what a dataclass's fields are: the comment beside each, as ``clbench show`` has it.

griffe, which reads the code for mkdocstrings, calls this file.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from griffe import Class, Extension

from clbench.cli.options import comments


class Fields(Extension):
    """Adds a list of the commented fields to the documentation of each dataclass."""

    def on_class_members(self, *, cls: Class, **_: Any) -> None:
        """Write the list as a docstring of Google's style would hold it."""
        if not any(each.callable_path.endswith("dataclass") for each in cls.decorators):
            return
        if cls.docstring is None or cls.parent is None or not cls.parent.is_module:
            return
        told = comments(getattr(import_module(cls.module.path), cls.name))
        lines = [f"    {name}: {comment}" for name, comment in told.items() if comment]
        if lines:
            cls.docstring.value = "\n".join([cls.docstring.value, "", "Attributes:", *lines])
