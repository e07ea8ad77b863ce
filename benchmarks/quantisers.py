"""Compare quantisers of weights and activations: the same learners, as they would be deployed.

    python benchmarks/quantisers.py --data-dir DIR --weights vit_tiny_patch16_224.safetensors --out quantisers

DIR holds CIFAR-100. ``simplecil`` and ``lae-adapter`` each learn its classes once, in ten tasks, and predict
with every quantiser at W8A8, W6A6, W4A4 and W3A3, too. What simplecil looks at does not change, so it is
calibrated on images of the first task and predicts after each task; the module of lae changes with each task,
so its variants predict after the last one, calibrated on images of that; ``--when each`` has them calibrated
and predict after each task, which takes ten times as long.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cifar100 import questions, ten_tasks
from tables import Row, as_csv, finished

from clbench.errors import UserError
from clbench.files import write_text
from clbench.records.forms import with_variants
from clbench.records.record import Record
from clbench.records.resolving import resolve
from clbench.records.spec import RunSpec
from clbench.report.columns import values_of

QUANTISERS = ("minmax", "base-ptq", "twin", "log2", "log-sqrt2", "adalog")
LEARNERS = {"simplecil": ("first", "each"), "lae": ("current", "end")}  # calibration, and when it predicts
BITS = (8, 6, 4, 3)
COUNTS = {
    "image_size": 64,
    "train_per_class": 20,
    "test_per_class": 20,
    "epochs": 3,
    "batch_size": 32,
    "images": 32,
}


def main() -> None:
    """Learn, predict in every form, print and write the table."""
    parser = questions(__doc__, network="vit_tiny_patch16_224", **COUNTS)
    parser.add_argument("--out", type=Path, default=Path("quantisers"))
    parser.add_argument("--quantisers", nargs="*", default=QUANTISERS)
    parser.add_argument("--learners", nargs="*", default=list(LEARNERS))
    parser.add_argument("--bits", nargs="*", type=int, default=BITS)
    parser.add_argument("--when", choices=("each", "end"), help="instead of each learner's own")
    parser.add_argument("--adalog", default="", help="options of adalog, such as rounds=1,tokens=256")
    options = parser.parse_args()
    rows: list[Row] = []
    for name in options.learners:
        try:
            record = finished(spec_of(name, options), options.out, options.data_dir)
        except UserError as reason:
            print(f"{name}: {reason}", flush=True)
            continue
        for each in with_variants(record):
            rows.append(measured(each))
            print(*rows[-1].values(), flush=True)
    write_text(options.out / "quantisers.csv", as_csv(rows))


def spec_of(name: str, options: argparse.Namespace) -> RunSpec:
    """Return the run of a learner with all its variants."""
    calibration, when = LEARNERS[name]
    of_adalog = f",{options.adalog}" if options.adalog else ""
    variants = [
        f"{quantiser}:bits={bits},images={options.images}{of_adalog if quantiser == 'adalog' else ''}"
        for bits in options.bits
        for quantiser in options.quantisers
    ]
    training = {"epochs": options.epochs, "batch_size": options.batch_size} if name == "lae" else {}
    return resolve(
        {
            **ten_tasks(options),
            "strategy": {"name": name, **training},
            "variant": variants,
            "run": {"calibration": calibration, "variants": options.when or when},
        }
    )


def measured(record: Record) -> Row:
    """Return what the table says of a learner or of one of its variants, in percent, bytes and seconds."""
    values, form = values_of(record), record.spec.deployed
    quantiser = form.quant if form else None

    def percent(name: str) -> object:
        value = values.get(name, float("nan"))
        return "" if value != value else round(100 * value, 1)

    return {
        "learner": f"{record.spec.strategy.name}-{record.spec.petl.name}",
        "quantiser": quantiser.name if quantiser else "float",
        "bits": quantiser.options["bits"] if quantiser else 32,
        "accuracy": percent("accuracy"),
        "average": percent("average-incremental-accuracy"),
        "forgetting": percent("forgetting"),
        "bit_operations": f"{values['bit_operations.evaluate_per_image']:.3g}",
        "deployed_bytes": int(values["deployed_bytes"]),
        "calibration_seconds": round(values.get("calibration.seconds", 0.0), 1),
    }


if __name__ == "__main__":
    main()
