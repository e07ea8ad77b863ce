"""Make a file that runs take: weights of a backbone, or a plug-in learnt once for it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clbench.cli import terminal
from clbench.cli.parameters import DataDir, Device, Option, Settings, places_in


def pretrain(
    context: typer.Context,
    method: Annotated[str, typer.Argument(metavar="METHOD")],
    backbone: Annotated[str, Option(metavar="NAME", help="What it is made for.")],
    stream: Annotated[str, Option(metavar="NAME", help="Whose training images are learnt from.")],
    out: Annotated[Path, Option(metavar="FILE", help="What is made: FILE.safetensors, new.")],
    settings: Settings = None,
    seed: Annotated[int, Option(min=0, metavar="N", help="Of all random numbers.")] = 0,
    device: Device = None,
    data_dir: DataDir = None,
) -> None:
    """Learn once what many runs take, such as a plug-in of a backbone; clbench list pretrain names METHODs.

    Beside it FILE.json says how it was made. What was stopped goes on when the same command is typed again.
    """
    from clbench.cli.arguments import pretraining_on

    sections = pretraining_on(method, backbone, stream, settings or [])
    places = places_in(data_dir)
    terminal.say(f"{method} · {backbone} · {stream} · seed {seed}")
    from clbench.cli.pretraining import pretrain_and_print
    from clbench.devices import choose
    from clbench.pretrain.asked import asked

    wanted = asked(
        method,
        backbone=backbone,
        stream=stream,
        sections=sections,
        seed=seed,
        device=choose(device or "auto"),
    )
    pretrain_and_print(wanted, out, places, command=context.obj)
