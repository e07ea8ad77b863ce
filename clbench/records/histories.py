"""Write and read a history as JSON: which tasks were learnt, of which streams, without a picture of them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter

from clbench.data.history import History

SHAPE = TypeAdapter(History)


def history_to(history: History) -> dict[str, Any]:
    """Return a history as what JSON holds."""
    return asdict(history)


def history_from(value: Any) -> History:
    """Return the history that ``history_to`` wrote; pydantic's error, a ValueError, where it is none."""
    history: History = SHAPE.validate_python(value)
    num_tasks = sum(chapter.num_tasks for chapter in history.chapters)
    largest = max((number for task in history.tasks for number in task), default=-1)
    if not history.tasks or num_tasks != len(history.tasks) or not all(history.tasks):
        raise ValueError(f"its streams have {num_tasks} tasks, and it lists {len(history.tasks)}")
    if largest + 1 > len(history.class_names):
        raise ValueError(f"it names {len(history.class_names)} classes, and its tasks have {largest + 1}")
    return history
