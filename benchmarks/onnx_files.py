"""Compare learners as ONNX files with the same learners in torch: agreement, file size, time of a prediction.

    python benchmarks/onnx_files.py --data-dir DIR --weights vit_tiny_patch16_224.safetensors

DIR holds cifar100.npz, of which a few images of a few classes are learnt in two tasks: what is compared is
how a prediction is computed, not how good it is. The difference is the largest of any score on sixteen
generated pictures, given one by one and all at once. Times are those of the module that ``Learner.module``
gives and of onnxruntime on the file without preprocessing, on as many threads; the two take turns in one
process, and the ratio is the median of the pairs.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from cifar100 import questions
from torch import Tensor

import clbench
from clbench.deploy.learner import Learner
from clbench.devices import processor_name
from clbench.evaluate.timing import ratio_of_times

METHODS: dict[str, dict[str, dict[str, object]]] = {
    "simplecil": {},
    "naive-lora": {"strategy": {"epochs": 1, "batch_size": 8}},
    "lae-adapter": {"strategy": {"epochs": 1, "frozen_epochs": 0, "batch_size": 8}},
    "er-adapter": {"strategy": {"epochs": 1, "batch_size": 8, "memory_size": 40}},
    "ranpac-linear": {"strategy": {"phase1": False, "projection": 2000}},
}
BATCHES = (1, 16)


def main() -> None:
    """Print a row for each method."""
    counts = {"image_size": 224, "classes": 10, "train_per_class": 6, "rounds": 9, "threads": 1}
    parser = questions(__doc__, network="the backbone", **counts)
    parser.add_argument("--backbone", default="vit_tiny_patch16_224")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"{options.backbone}, {options.image_size} px, {options.threads} thread(s) of {processor_name()}"
        f" ({torch.backends.cpu.get_cpu_capability()}), torch {torch.__version__},"
        f" onnxruntime {onnxruntime.__version__}, {options.rounds} rounds"
    )
    print("| strategy | MB outside | MB inside | difference outside | inside | same class |", end="")
    print("".join(f" torch, {size} (ms) | onnxruntime | ratio |" for size in BATCHES))
    with tempfile.TemporaryDirectory() as folder:
        stream = some_of(options.data_dir, options.classes, options.train_per_class, Path(folder))
        backbone = {"name": options.backbone, "weights": options.weights, "image_size": options.image_size}
        for name, chosen in METHODS.items():
            strategy = {"name": name, **chosen.get("strategy", {})}
            spec = clbench.resolve({"strategy": strategy, "backbone": backbone, "stream": stream})
            record = clbench.execute(spec, out=Path(folder))
            print(
                row(name, clbench.load(record.path), Path(folder), options.rounds, options.threads),
                flush=True,
            )


def some_of(data_dir: Path, num_classes: int, per_class: int, folder: Path) -> dict[str, object]:
    """Write some images of the first classes into a file, and return the section of a spec that learns it."""
    with np.load(data_dir / "cifar100.npz") as whole:
        parts = {}
        for part in ("train", "test"):
            labels = whole[f"{part}_y"]
            rows = np.concatenate([np.flatnonzero(labels == c)[:per_class] for c in range(num_classes)])
            parts |= {f"{part}_x": whole[f"{part}_x"][rows], f"{part}_y": labels[rows]}
        np.savez(folder / "some.npz", names=whole["names"][:num_classes], **parts)
    return {"name": f"npz:{folder / 'some.npz'}", "tasks": "2", "validation_rate": 0}


def row(name: str, learner: Learner, folder: Path, rounds: int, threads: int) -> str:
    """Return a row of the table."""
    reports = [
        learner.export_onnx(folder / f"{name}-{where}.onnx", preprocessing=where)
        for where in ("outside", "inside")
    ]
    sizes = "".join(f" {report.num_bytes / 1e6:.1f} |" for report in reports)
    differences = "".join(f" {report.max_difference:.1e} |" for report in reports)
    same = f"{sum(report.num_same_class for report in reports)}/{sum(r.num_compared for r in reports)}"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(reports[0].file, options, providers=["CPUExecutionProvider"])
    module, size = learner.module(), learner.backbone.preprocessing.image_size
    times = ""
    for count in BATCHES:
        images = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))
        times += timed(module, lambda given: session.run(None, {"images": given.numpy()}), images, rounds)
    return f"| {name} |{sizes}{differences} {same} |{times}"


@torch.inference_mode()
def timed(module: torch.nn.Module, run: Callable[[Tensor], object], images: Tensor, rounds: int) -> str:
    """Return cells: the milliseconds of torch, those of onnxruntime, and the median of their ratios."""
    seconds: dict[str, list[float]] = {"torch": [], "onnxruntime": []}
    ratio = ratio_of_times(
        lambda: noted(seconds["onnxruntime"], lambda: run(images)),
        lambda: noted(seconds["torch"], lambda: float(module(images).sum())),
        rounds=rounds,
    )
    medians = "".join(f" {1000 * float(np.median(each)):.0f} |" for each in seconds.values())
    return f"{medians} {ratio:.2f} |"


def noted(seconds: list[float], call: Callable[[], object]) -> None:
    """Call, and note how long that took."""
    started = time.perf_counter()
    call()
    seconds.append(time.perf_counter() - started)


if __name__ == "__main__":
    main()
