"""Keep a course that is not at its end beside the file that it is to make.

``FILE.partial/`` holds checkpoints as a run's record does: whole or passed over, the one before the newest
kept. Only the command that began it goes on with it; when the file is there, the folder is removed.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from clbench import pretrain
from clbench.errors import UserError
from clbench.outside.visible import visible
from clbench.pretrain.asked import Asked
from clbench.pretrain.course import Course
from clbench.records.json_text import plain
from clbench.runs.checkpoint import Checkpoint, Position, load_checkpoint, save_checkpoint, under

SUFFIX = ".safetensors"


class OutError(UserError, ValueError):
    """A file that cannot be made under this name."""


@dataclass
class Account:
    """What is known of the steps that are done."""

    losses: list[float]
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {"losses": self.losses, "seconds": self.seconds}


@dataclass(frozen=True)
class Partial:
    """The folder of one course that is to become one file."""

    file: Path
    asked: Asked
    digests: Mapping[str, str]  # of the backbone's weights and of the stream

    @property
    def folder(self) -> Path:
        """Where the checkpoints lie."""
        return folder_of(self.file)

    def save(self, course: Course, account: Account) -> None:
        """Keep what was done so far."""
        position = Position(step=len(account.losses))
        save_checkpoint(
            self.folder,
            Checkpoint(position, _prefixed(course.state()), {**account.to_dict(), "asked": self._asked()}),
        )

    def load(self, course: Course) -> Account:
        """Let a course that was just begun go on where it was stopped, and return what was done.

        OutError in one line where the folder is of another command, or data or weights have changed.
        """
        checkpoint = load_checkpoint(self.folder) if self.folder.is_dir() else None
        if checkpoint is None:
            return Account([])
        before, now = checkpoint.info["asked"], self._asked()
        for name, value in now.items():
            if before.get(name) != value:
                raise OutError(
                    f"{self.folder} is what another command left: {name} is {_told(before.get(name))} there"
                    f" and {_told(value)} here; remove it, or give another --out"
                )
        course.take_back(under("course/", checkpoint.tensors))
        return Account(checkpoint.info["losses"], checkpoint.info["seconds"])

    def remove(self) -> None:
        """Remove the folder: the file is there."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _asked(self) -> dict[str, Any]:
        """Return what two commands must share, each option under a name of its own."""
        flat: dict[str, Any] = {}
        unlike = {f"method.{name}" for name in pretrain.get(self.asked.method.name).only_how}
        for kind, value in self.asked.to_dict().items():
            pairs = value.items() if isinstance(value, dict) else [("", value)]
            flat |= {f"{kind}.{name}" if name else kind: each for name, each in pairs}
        shared = {name: value for name, value in flat.items() if name not in unlike}
        return dict(plain({**shared, **self.digests}))


def refuse_in_the_way(file: Path) -> None:
    """Raise OutError in one line where a file cannot be made under this name."""
    if file.suffix != SUFFIX:
        raise OutError(f"--out {visible(str(file))}: the name is to end in {SUFFIX}")
    if file.exists():
        raise OutError(f"--out {file} is there already; nothing is overwritten: remove it, or name another")
    if account_of(file).exists() and not folder_of(file).is_dir():
        raise OutError(f"{account_of(file)} would be overwritten; remove it, or give another --out")


def account_of(file: Path) -> Path:
    """Return where it stands how a file was made."""
    return file.with_suffix(".json")


def folder_of(file: Path) -> Path:
    """Return where the checkpoints of a file that is to be lie."""
    return file.with_suffix(".partial")


def _prefixed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"course/{name}": tensor for name, tensor in state.items()}


def _told(value: object) -> str:
    text = str(value)
    return repr(value) if len(text) <= 40 else f"{text[:12]}..."
