"""Import avalanche without the warnings of what it imports in turn."""

from __future__ import annotations

import warnings


def import_avalanche() -> None:
    """Import avalanche for the first time; its QP solver, which is not for us, warns that it is missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import avalanche.benchmarks  # noqa: F401
