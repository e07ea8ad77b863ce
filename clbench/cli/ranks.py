"""Be one of the processes that torchrun has started for one run: the first talks, the others are silent."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, NoReturn

from clbench.errors import UserError

if TYPE_CHECKING:
    from clbench.backbones.ranks import Ranks

SHARED = ("run", "resume")  # the commands that several processes can do together
ASIDE = ("-h", "--help", "--version")


class OneProcessError(UserError, ValueError):
    """Something that several processes cannot do together."""


def place() -> tuple[int, int]:
    """Return which process of how many this is, as torchrun tells; (0, 1) where there is one."""
    found = (os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", ""))
    is_told = all(word.isdecimal() for word in found) and "MASTER_ADDR" in os.environ
    return (int(found[0]), int(found[1])) if is_told else (0, 1)


def is_shared() -> bool:
    """Return whether this is one of several processes."""
    return place()[1] > 1


def launcher() -> list[str]:
    """Return the words that start clbench as it was started."""
    if not is_shared():
        return ["clbench"]
    number = os.environ.get("LOCAL_WORLD_SIZE", str(place()[1]))
    return ["torchrun", "--nproc-per-node", number, "-m", "clbench"]


@contextmanager
def one_voice() -> Iterator[None]:
    """Let the first of several processes alone be heard; a mistake that is nobody's is told by each."""
    if place()[0] == 0:
        yield
        return
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
    ):
        yield


def refuse_one_process_commands(words: Sequence[str]) -> None:
    """Raise OneProcessError in one line for a command that knows of one process only."""
    command = next((word for word in words if not word.startswith("-")), None)
    if is_shared() and command not in (None, *SHARED) and not set(ASIDE) & set(words):
        raise OneProcessError(
            f"clbench {command} is done by one process, and torchrun has started {place()[1]}; type it"
            f" without torchrun (what several do together: clbench {' and clbench '.join(SHARED)})"
        )


def refuse_several_runs(number: int) -> None:
    """Raise OneProcessError in one line for several runs at once."""
    if is_shared() and number > 1:
        raise OneProcessError(
            f"{number} runs were asked for, and torchrun has started {place()[1]} processes for one: name one"
            " strategy, stream and seed, or type it without torchrun and with --jobs"
        )


@contextmanager
def joined_ranks() -> Iterator[Ranks | None]:
    """Join the other processes for a while; None where there are none."""
    index, number = place()
    if number == 1:
        yield None
        return
    import torch
    from torch import distributed

    from clbench.backbones.ranks import LONGEST_WAIT, Ranks

    if has_cuda := torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", index)) % torch.cuda.device_count())
    backend = "cpu:gloo,cuda:nccl" if has_cuda else "gloo"
    distributed.init_process_group(backend, timeout=LONGEST_WAIT)
    signal.signal(signal.SIGTERM, _end)
    yield Ranks(index, number)
    distributed.destroy_process_group()  # where something failed, the end of the process does so


def _end(*_: object) -> NoReturn:
    """Come to an end as torchrun wants every process to when one has ended."""
    from clbench.backbones.ranks import LostRankError

    raise LostRankError(f"torchrun has stopped this run: one of its {place()[1]} processes has ended")
