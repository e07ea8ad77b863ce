"""What a user should know of the data and the weights is said when a run starts, and kept in its record."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

from clbench.backbones.cifar_resnet import ResNet20
from clbench.loggers.together import Together
from clbench.records.progress import Progress
from clbench.records.resolving import resolve
from clbench.runs.line import execute
from clbench.streams import Places


class Heard(Progress):
    """Remembers what it hears, in its order."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def run_started(self, spec: object, folder: Path, num_tasks: int) -> None:
        self.lines.append("run started")

    def noted(self, line: str) -> None:
        self.lines.append(line)

    def task_started(self, task: int, classes: list[str], num_images: int) -> None:
        self.lines.append(f"task {task}: {', '.join(classes)}")


def test_what_is_not_read_and_which_weights_are_found_is_said_and_kept(tmp_path: Path) -> None:
    data = tmp_path / "data"
    colours = {"ant": ("RGB", (40, 0, 9)), "bee": ("RGBA", (9, 40, 0, 50)), "cow": ("I;16", 10_000)}
    for name, (mode, colour) in colours.items():
        (data / "tree" / name).mkdir(parents=True)
        for number in range(5):
            several = tuple(value * (number + 1) for value in colour) if isinstance(colour, tuple) else colour
            Image.new(mode, (8, 8), several).save(data / "tree" / name / f"{number}.png")
    (data / "tree" / "ant" / "notes.txt").write_text("")
    torch.manual_seed(0)
    save_file(ResNet20().build().state_dict(), data / "resnet20.safetensors")
    spec = resolve(
        {
            "stream": {"name": f"folder:{data / 'tree'}", "tasks": "2,1", "order": "cow,ant,bee"},
            "strategy": {"name": "simplecil"},
            "petl": {"name": "linear"},
            "backbone": {"name": "resnet20"},
        }
    )
    heard = Heard()
    places = Places(data, tmp_path / "cache")
    for number in range(2):  # the second time the images come from the cache, and all is said again
        record = execute(spec, out=tmp_path / "runs", places=places, progress=Together([heard]), command="")
        notes = [
            f"not read in {data / 'tree'}: 1 file with another ending (.txt)",
            "of 15 images: 5 grey of 16 bits (the upper 8), 5 with alpha or a transparent colour (on white)",
            f"weights: {data / 'resnet20.safetensors'}, found beside the data",
        ]
        assert heard.lines[6 * number :] == ["run started", *notes, "task 0: cow, ant", "task 1: bee"]
        events = [json.loads(line) for line in (record.path / "events.jsonl").read_text().splitlines()]
        assert [event["line"] for event in events if event["event"] == "noted"] == notes
