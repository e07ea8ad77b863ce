"""Learn on a backbone of few bits: accuracy over the bytes of backbone and of all that is added to it.

    python benchmarks/low_bit_trunk.py --data-dir DIR --weights vit_tiny_patch16_224.safetensors --out trunk

DIR holds CIFAR-100. Each learner learns its classes in ten tasks on the backbone in float, and on what
``rtn`` and ``least-error`` make of it at 8, 4, 3, 2 and 1 bits, groups of 64 weights sharing a scale; modules
and heads learn in float on top. Runs that are in ``--out`` are not made again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cifar100 import questions, ten_tasks
from scatter import scatter
from tables import Row, as_csv, best_first, finished

from clbench import strategies
from clbench.errors import UserError
from clbench.files import write_text
from clbench.options import option_types
from clbench.records.record import Record
from clbench.records.resolving import resolve
from clbench.records.spec import RunSpec
from clbench.report.columns import values_of

LEARNERS = ("lae-adapter", "ranpac", "er")
QUANTISERS = ("rtn", "least-error")
BITS = (8, 4, 3, 2, 1)
COUNTS = {
    "image_size": 64,
    "train_per_class": 20,
    "test_per_class": 20,
    "epochs": 3,
    "batch_size": 32,
    "memory_size": 200,
    "projection": 2000,
    "group": 64,
}


def main() -> None:
    """Learn every learner on every backbone, and print, write and draw the table."""
    parser = questions(__doc__, network="vit_tiny_patch16_224", **COUNTS)
    parser.add_argument("--out", type=Path, default=Path("trunk"))
    parser.add_argument("--learners", nargs="*", default=LEARNERS)
    options = parser.parse_args()
    rows: list[Row] = []
    forms = [("float", 32), *((quantiser, bits) for quantiser in QUANTISERS for bits in BITS)]
    for learner in options.learners:
        for quantiser, bits in forms:
            try:
                spec = spec_of(learner, quantiser, bits, options)
                rows.append(measured(learner, quantiser, finished(spec, options.out, options.data_dir)))
            except UserError as reason:
                print(f"{learner} {quantiser} {bits}: {reason}", flush=True)
                continue
            print(*rows[-1].values(), flush=True)
            write_text(options.out / "low_bit_trunk.csv", as_csv(best_first(rows)))
    picture = scatter(
        rows,
        over="bytes",
        title=f"CIFAR-100 in ten tasks, {options.train_per_class} training images a class",
        below="one seed; after each name the bits of a weight of the backbone",
        label="bytes of the backbone and of all that is added to it to predict",
    )
    picture.save(options.out / "low_bit_trunk.png")


def spec_of(learner: str, quantiser: str, bits: int, options: argparse.Namespace) -> RunSpec:
    """Return the run of a learner on a backbone of so many bits."""
    allowed = option_types(strategies.get(strategies.split(learner)[0]))
    common = ("epochs", "batch_size", "memory_size", "projection")
    chosen = {name: getattr(options, name) for name in common if name in allowed}
    low = {"name": quantiser, "bits": bits, "group": options.group} if bits < 32 else {}
    return resolve(
        {
            **ten_tasks(options),
            "strategy": {"name": learner, **chosen},
            "quant": low,
        }
    )


def measured(learner: str, quantiser: str, record: Record) -> Row:
    """Return what the table says of a run, in percent and bytes."""
    values = values_of(record)
    bits = record.spec.quant.options["bits"] if record.spec.quant else 32
    return {
        "row": f"{learner} {quantiser} {bits}",
        "accuracy": round(100 * values["accuracy"], 1),
        "average": round(100 * values["average-incremental-accuracy"], 1),
        "forgetting": round(100 * values["forgetting"], 1),
        "bytes": int(values["deployed_bytes"]),
        "backbone_bytes": int(values["backbone_bytes.total"]),
        "peak_memory": int(values["memory.process.peak"]),
    }


if __name__ == "__main__":
    main()
