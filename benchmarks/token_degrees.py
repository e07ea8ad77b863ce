"""Learn at one degree of token merging and predict at others, with and without ToCom.

    clbench pretrain tocom --backbone vit_tiny_patch16_224 ... --out tocom.safetensors
    python benchmarks/token_degrees.py --data-dir DIR --weights FILE --plugin tocom.safetensors --out degrees

DIR holds CIFAR-100, which is learnt in ten tasks on ViT-Ti with ``tome:removed=a`` for each a of
``--learnt-at``; after the last task the learner also predicts at each b of ``--degrees``, as it is and with
the plug-in's way from a to b in its weights: accuracy over multiply-adds. Runs that are in ``--out`` are not
made again.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from cifar100 import questions, ten_tasks
from tables import Row, as_csv, finished

from clbench import strategies
from clbench.files import write_text
from clbench.options import option_types
from clbench.records.forms import variant_record
from clbench.records.record import Record
from clbench.records.resolving import resolve
from clbench.records.spec import RunSpec
from clbench.report.pictures.picture import Picture
from clbench.report.pictures.style import COLOURS, LINES, MARKERS, clean, name_axes, new_figure, set_title

COUNTS = {
    "image_size": 224,
    "train_per_class": 10,
    "test_per_class": 10,
    "epochs": 3,
    "batch_size": 32,
    "projection": 2000,
    "plugin_scale": 0.1,
    "seed": 0,
}


def main() -> None:
    """Learn at each degree, and print, write and draw the table."""
    parser = questions(__doc__, network="vit_tiny_patch16_224", **COUNTS)
    parser.add_argument("--out", type=Path, default=Path("degrees"))
    parser.add_argument("--plugin", type=Path)
    parser.add_argument("--learners", nargs="*", default=["ranpac"])
    parser.add_argument("--learnt-at", nargs="*", type=int, default=[0, 8, 16])
    parser.add_argument("--degrees", nargs="*", type=int, default=[0, 2, 4, 6, 8, 10, 12, 14, 16])
    options = parser.parse_args()
    rows: list[Row] = []
    for learner in options.learners:
        for learnt_at in options.learnt_at:
            record = finished(spec_of(learner, learnt_at, options), options.out, options.data_dir)
            rows += measured(learner, learnt_at, record)
            for row in rows[-(1 + len(record.spec.variants)) :]:
                print(*row.values(), flush=True)
            write_text(options.out / "token_degrees.csv", as_csv(rows))
        own = [row for row in rows if row["learner"] == learner]
        drawn(learner, own, options).save(options.out / f"token_degrees_{learner}.png")


def spec_of(learner: str, learnt_at: int, options: argparse.Namespace) -> RunSpec:
    """Return the run of a learner at a degree, with all others as variants."""
    allowed = option_types(strategies.get(strategies.split(learner)[0]))
    chosen = {
        name: getattr(options, name) for name in ("epochs", "batch_size", "projection") if name in allowed
    }
    return resolve(
        {
            **ten_tasks(options),
            "strategy": {"name": learner, **chosen},
            "compress": {"name": "tome", "removed": learnt_at} if learnt_at else {},
            "run": {"variants": "end", "seed": options.seed},
            "variant": list(forms(learnt_at, options)),
        }
    )


def forms(learnt_at: int, options: argparse.Namespace) -> Iterator[str]:
    """Yield the variants, plain and repaired."""
    for degree in options.degrees:
        yield f"tome:removed={degree}"
        if options.plugin and degree != learnt_at:
            repaired = f"plugin={options.plugin},learnt_at={learnt_at},plugin_scale={options.plugin_scale}"
            yield f"tome:removed={degree},{repaired}"


def measured(learner: str, learnt_at: int, record: Record) -> Iterator[Row]:
    """Yield what the table says of the learner itself, and of each form, in percent and multiply-adds."""
    costs = record.read_json("costs.json")
    whole = {
        "train_gflops": round(costs["flops"]["train"] / 1e9, 1),
        "train_seconds": round(costs["time"]["train"]["seconds"], 1),
    }
    for each in (record, *(variant_record(record, variant) for variant in record.spec.variants)):
        form = each.spec.deployed
        own = form.compress if form else record.spec.compress
        degree = own.options["removed"] if own else 0
        yield {
            "learner": learner,
            "learnt_at": learnt_at,
            "form": "itself" if form is None else "tocom" if own and own.options["plugin"] else "plain",
            "degree": degree,
            "accuracy": round(100 * each.read_json("metrics.json")["accuracy"], 2),
            "gmacs": round(each.read_json("costs.json")["flops"]["evaluate_per_image"] / 2e9, 4),
            **(whole if form is None else dict.fromkeys(whole, "")),
        }


def drawn(learner: str, rows: Sequence[Row], options: argparse.Namespace) -> Picture:
    """Draw accuracy over multiply-adds: a colour a degree learnt at, dashed without the plug-in."""
    figure = new_figure(6.4, 4.2)
    axes = figure.add_subplot()
    for index, (learnt_at, own) in enumerate(groupby(rows, key=lambda row: row["learnt_at"])):
        points = [row for row in own if row["form"] != "itself"]
        at_home = [row for row in points if row["degree"] == learnt_at]
        for form, dashes in (("tocom", LINES[0]), ("plain", LINES[1])):
            chosen = [row for row in points if row["form"] == form]
            line = sorted(
                [*chosen, *(at_home if form == "tocom" else [])], key=lambda row: float(str(row["gmacs"]))
            )
            if len(line) < 2:
                continue
            axes.plot(
                [float(str(row["gmacs"])) for row in line],
                [float(str(row["accuracy"])) for row in line],
                color=COLOURS[index],
                linestyle=dashes,
                marker=MARKERS[index],
                markersize=4,
                label=f"learnt at {learnt_at}" + (", with ToCom" if form == "tocom" else ""),
            )
    clean(axes, ("left", "bottom"))
    name_axes(axes, "multiply-adds of an image (G)", "accuracy after ten tasks (%)")
    if axes.lines:
        axes.legend(fontsize=7.5, frameon=False)
    set_title(
        figure,
        f"One {learner} at other degrees than it learnt at",
        f"CIFAR-100, {options.train_per_class} training images a class, ViT-Ti at {options.image_size} px,"
        f" {min(options.degrees)} to {max(options.degrees)} tokens removed a block; seed {options.seed}",
    )
    return Picture(figure)


if __name__ == "__main__":
    main()
