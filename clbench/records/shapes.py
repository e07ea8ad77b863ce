"""Say what the JSON files of a record hold, and refuse in one line what another program has put there.

A number may be null: it is not known. What a file holds beside what is named here is nobody's concern.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import NoneType
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from clbench.outside.reading import LONGEST_REASON, RecordError, told_in_one_line
from clbench.records.histories import history_from

DEEPEST = 8  # tables in tables of costs.json
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)] | None
Share = Annotated[float, Field(strict=True, ge=0, le=1)] | None
Count = Annotated[int, Field(strict=True, ge=0)]
Plain = StrictStr | StrictBool | StrictInt | StrictFloat | None


class Matrix(BaseModel):
    """matrix.json: T tasks, and C classes in the order in which they were learnt."""

    accuracy: Annotated[list[list[Share]], Field(min_length=1)]  # (T, T)
    classes_of_task: list[list[Count]]  # T
    masked: list[list[Share]] | None = None  # (T, T)
    num_test: list[Count] | None = None  # T
    class_names: list[StrictStr] | None = None

    @model_validator(mode="after")
    def fits(self) -> Matrix:
        """Refuse lists that are not about the same tasks, and classes beyond those that there are."""
        num_tasks = len(self.accuracy)
        lengths = {len(row) for matrix in (self.accuracy, self.masked or []) for row in matrix}
        lengths |= {
            len(each) for each in (self.classes_of_task, self.masked, self.num_test) if each is not None
        }
        if lengths != {num_tasks}:
            raise ValueError(f"it is about {num_tasks} tasks in one place and not in another")
        classes = {number for task in self.classes_of_task for number in task}
        if max(classes, default=0) >= max(len(classes), len(self.class_names or []), 1):
            raise ValueError(f"class {max(classes)} is more than it has classes")
        return self


class Hashes(BaseModel):
    """hashes.json: what must be equal for two runs to be compared."""

    stream: StrictStr
    weights: StrictStr
    strategy_source: StrictStr


class Environment(BaseModel):
    """environment.json: versions and machine."""

    python: Plain = None
    packages: dict[str, StrictStr | None] = {}
    machine: dict[str, Plain | list[Plain]] = {}
    commit: dict[str, Plain] | None = None

    @field_validator("machine")
    @classmethod
    def lists_accelerators(cls, machine: dict[str, Any]) -> dict[str, Any]:
        """Refuse one thing where there are to be several."""
        if not isinstance(machine.get("accelerators", []), list):
            raise ValueError("accelerators are to be a list")
        return machine


class StoredBytes(BaseModel):
    """What is stored after a task, in costs.json."""

    total: Number


class TaskCosts(BaseModel):
    """What was held and had been spent after a task, in costs.json."""

    task: Count
    stored_bytes: StoredBytes


class Costs(BaseModel):
    """costs.json: numbers in tables in tables."""

    by_task: list[TaskCosts] = []


def check(file: Path, value: Any) -> None:
    """Refuse what a file of that name does not hold when a run has written it; RecordError says why."""
    shape = SHAPES.get(file.name)
    if shape is None:
        return
    if not isinstance(value, dict):
        raise RecordError(f"{file} holds a {type(value).__name__}, not values by name")
    with told_in_one_line(file):
        try:
            shape(value)
        except ValidationError as error:
            raise RecordError(f"{file} {_told(error)}") from error


def _told(error: ValidationError) -> str:
    """Say what is missing, or the first thing that is wrong."""
    problems = error.errors(include_url=False)
    missing = [".".join(map(str, each["loc"])) for each in problems if each["type"] == "missing"]
    if missing:
        return f"does not hold {', '.join(sorted(missing))}"[:LONGEST_REASON]
    place = ".".join(str(part)[:40] for part in problems[0]["loc"])
    reason = problems[0]["msg"].removeprefix("Value error, ")
    return f"is not what a run writes: {f'{place}: ' if place else ''}{reason[:1].lower()}{reason[1:]}"


def _costs(value: Any) -> None:
    Costs.model_validate(value)
    for tree in (value, *value.get("by_task", [])):
        _numbers(tree, "", DEEPEST)


def _numbers(tree: Any, place: str, depth: int) -> None:
    """Refuse a tree with a leaf that is neither a number nor a list, which nobody reads."""
    if isinstance(tree, list):
        return
    if isinstance(tree, dict):
        if not depth:
            raise ValueError("it is nested too deeply")
        for key, value in tree.items():
            _numbers(value, f"{place}.{key}" if place else key, depth - 1)
    elif isinstance(tree, bool) or not isinstance(tree, (int, float, NoneType)):
        raise ValueError(f"{place} is {str(tree)[:40]!r}, not a number")
    elif tree is not None and not math.isfinite(tree):
        raise ValueError(f"{place} is not finite")


SHAPES: dict[str, Callable[[Any], object]] = {
    "metrics.json": TypeAdapter(dict[str, Number]).validate_python,
    "costs.json": _costs,
    "matrix.json": Matrix.model_validate,
    "hashes.json": Hashes.model_validate,
    "environment.json": Environment.model_validate,
    "history.json": history_from,
}
