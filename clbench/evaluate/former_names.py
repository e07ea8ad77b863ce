"""Know by which names metrics went before, so that older records and scripts are understood."""

from __future__ import annotations

FORMER = {  # what a metric was called, and what it is called now
    "average-accuracy": "average-incremental-accuracy",
    "average-accuracy-micro": "average-incremental-accuracy-micro",
}


def current_name(name: str) -> str:
    """Return what a metric is called today; any other name comes back as it is."""
    return FORMER.get(name, name)
