"""Follow a course to its end: step, checkpoint, file, and how it was made beside it."""

from __future__ import annotations

import math
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from clbench.data.tasks import Places
from clbench.errors import UserError
from clbench.files import make_folder, write_bytes, write_text
from clbench.outside.mistakes import explained
from clbench.pretrain.asked import Asked
from clbench.pretrain.course import Course
from clbench.pretrain.listener import Listener
from clbench.pretrain.materials import Materials, gathered
from clbench.pretrain.partial import Account, Partial, account_of, refuse_in_the_way
from clbench.records.environment import environment
from clbench.records.json_text import to_json
from clbench.records.lock import only_writer
from clbench.version import __version__

SECONDS_BETWEEN_CHECKPOINTS = 30.0
POINTS = 100  # of the curve of losses that is written down, at most


class DivergedError(UserError, RuntimeError):
    """A loss that is not finite any more."""


def pretrain(
    asked: Asked,
    file: Path,
    *,
    places: Places | None = None,
    listener: Listener | None = None,
    command: str = "",
    seconds_between: float = SECONDS_BETWEEN_CHECKPOINTS,
) -> Path:
    """Make the file that is asked for and return it; the same call goes on with one that was stopped.

    Args:
        asked: What is to be made, of what.
        file: Ends in .safetensors, and is new. Beside it a .json will say how it was made.
        places: Where data are found.
        listener: Hears how it goes.
        command: What was typed, if anything was.
        seconds_between: How long steps may go on without a checkpoint; 0: one a step.
    """
    listener = listener or Listener()
    refuse_in_the_way(file)
    method = asked.made_method()
    with explained(method):
        materials = gathered(asked, places or Places())
        course = method.begin(materials)
    partial = Partial(file, asked, _digests(materials))
    make_folder(partial.folder)
    with only_writer(partial.folder):
        refuse_in_the_way(file)  # of another process that was at its end just now
        account = partial.load(course)
        listener.begun(course.num_steps, len(account.losses), [*materials.notes, *course.notes()])
        with explained(method), closing(course):
            _follow(course, account, partial, listener, seconds_between)
            listener.examining()
            examined = course.examined()
            data = course.product(_about(asked, materials, course))
        made = {**_how(asked, materials, account, examined), "command": command}
        write_text(account_of(file), to_json(made) + "\n")
        write_bytes(file, data)
    partial.remove()
    return file


def _follow(
    course: Course, account: Account, partial: Partial, listener: Listener, seconds_between: float
) -> None:
    saved = time.monotonic()
    begun, before = saved, account.seconds
    for index in range(len(account.losses), course.num_steps):
        loss = course.step(index)
        if not math.isfinite(loss):
            raise DivergedError(
                f"the loss of step {index + 1} is {loss}; try a lower pretrain.learning_rate, and remove"
                f" {partial.folder}"
            )
        account.losses.append(loss)
        listener.step_done(loss, course.where())
        now = time.monotonic()
        account.seconds = before + now - begun
        if now - saved >= seconds_between or index + 1 == course.num_steps:
            partial.save(course, account)
            saved = now


def _about(asked: Asked, materials: Materials, course: Course) -> dict[str, str]:
    """Return what the header of the file says: nothing that two such files would differ in."""
    backbone, options = materials.backbone, asked.method.options
    return {
        "clbench": __version__,
        "method": asked.method.name,
        "recipe": str(options.get("recipe", "")),
        "backbone": backbone.name,
        "weights": backbone.weights_source,
        "weights_digest": backbone.weights_digest,
        "image_size": str(backbone.preprocessing.image_size),
        "stream": asked.stream.name,
        "stream_digest": materials.stream_digest,
        "seed": str(asked.seed),
        "steps": str(course.num_steps),
    }


def _how(asked: Asked, materials: Materials, account: Account, examined: dict[str, Any]) -> dict[str, Any]:
    return {
        "asked": asked.to_dict(),
        "backbone": {
            "weights": materials.backbone.weights_source,
            "image_size": materials.backbone.preprocessing.image_size,
        },
        "digests": _digests(materials),
        "images": {"train": len(materials.train), "test": len(materials.test)},
        "steps": len(account.losses),
        "seconds": account.seconds,
        "loss": _curve(account.losses),
        "examined": examined,
        "environment": environment(),
    }


def _digests(materials: Materials) -> dict[str, str]:
    return {"weights": materials.backbone.weights_digest, "stream": materials.stream_digest}


def _curve(losses: list[float]) -> list[float]:
    """Return the means of equal stretches of steps, each of four digits."""
    length = math.ceil(len(losses) / POINTS)
    stretches = [losses[start : start + length] for start in range(0, len(losses), max(1, length))]
    return [float(f"{sum(stretch) / len(stretch):.4g}") for stretch in stretches]
