"""Read the records of many runs into tidy pandas frames: one row a run, a cell, a number, a prediction.

Every frame has the columns ``run`` (the record's folder), ``group`` (runs that differ in the seed alone),
``seed`` and ``variant`` (the form in which the learner predicted; "" for the learner itself), so that frames
can be merged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clbench.evaluate import METRICS, find
from clbench.evaluate.former_names import current_name
from clbench.records.record import Record
from clbench.report.collect import collect
from clbench.report.comparing import interval, mean_ranks, paired_tests, pareto_front
from clbench.report.groups import Group, group_runs
from clbench.report.warnings import warnings

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray


def load_runs(*folders: str | Path, recompute: bool = False, metrics: Sequence[str] = ()) -> Runs:
    """Read every finished run in the folders, or in the folders inside them; NoRunError if there is none.

    With ``recompute`` the metrics are computed anew from the predictions, by today's formulas; that reads
    all of them. ``metrics`` are names, or addresses such as ``mine.py:spread``, of metrics that the records
    need not hold: where they do not, they are computed from the predictions. What is comparable and what is
    not stands in ``warnings``.
    """
    records, notes = collect([Path(folder) for folder in folders], with_results=recompute)
    return Runs(group_runs(records, recompute=recompute, asked=[find(name) for name in metrics]), notes)


@dataclass(frozen=True)
class Runs:
    """Some finished runs, the latest of each spec and seed, as groups and as frames."""

    groups: list[Group]
    notes: list[str]  # about runs that were left out

    @cached_property
    def warnings(self) -> list[str]:
        """What has to be known before the groups' numbers are compared, a line each."""
        return warnings(self.groups)

    def __len__(self) -> int:
        """Return the number of runs."""
        return sum(len(group.records) for group in self.groups)

    def __getitem__(self, label: str) -> Group:
        """Return the group with a label."""
        from clbench.registry import UnknownNameError, did_you_mean

        for group in self.groups:
            if group.label == label:
                return group
        labels = [group.label for group in self.groups]
        raise UnknownNameError(
            f"no group {label!r}{did_you_mean(label, labels)} (allowed: {', '.join(labels)})"
        )

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row a run: names, version, hashes, and every option as ``strategy.epochs``."""
        return self._frame(lambda _, record: [_about(record)])

    @cached_property
    def matrix(self) -> pd.DataFrame:
        """One row a cell: accuracy, and with the task told (``masked``), on ``task`` after task ``after``.

        Tasks count from 0; NaN: not measured.
        """
        return self._frame(lambda _, record: _cells(record))

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """One row a run and metric: its ``value``; NaN: not known."""
        return self._numbers(lambda name: name in METRICS, "metric")

    @cached_property
    def costs(self) -> pd.DataFrame:
        """One row a run and cost, such as ``stored_bytes.total``: its ``value``; NaN: not readable."""
        return self._numbers(lambda name: name not in METRICS, "cost")

    @cached_property
    def costs_by_task(self) -> pd.DataFrame:
        """One row a run, task and cost: what was held and had been spent after task ``after``."""
        return self._frame(lambda _, record: _costs_by_task(record))

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """One row a prediction: after which task, of which image, the label, the shares of the scores."""
        return self._logs(Record.predictions)

    @cached_property
    def anytime(self) -> pd.DataFrame:
        """One row a look and task while the learners learnt; empty where nobody looked."""
        return self._logs(lambda record: record.anytime() or {})

    @cached_property
    def summary(self) -> pd.DataFrame:
        """One row a group and number: mean, std, and the mean's 95 % interval over n seeds."""
        import pandas as pd

        rows = [
            {
                "group": group.label,
                "name": name,
                **asdict(interval(group.numbers(name))),
            }
            for group in self.groups
            for name in group.names
        ]
        return pd.DataFrame(rows)

    def tests(self, name: str = "accuracy") -> pd.DataFrame:
        """Compare every pair of groups in a number, by a paired test over the seeds that both have."""
        import pandas as pd

        return pd.DataFrame([asdict(test) for test in paired_tests(self.groups, name)])

    def ranks(self, name: str = "accuracy") -> pd.Series[float]:
        """Return each group's mean rank in a metric over the seeds, 1 the best, in order."""
        import pandas as pd

        name = current_name(name)
        is_cost = name not in METRICS or not METRICS[name].higher_is_better
        ranks = mean_ranks(self.groups, name, higher_is_better=not is_cost)
        return pd.Series(ranks, name=f"rank in {name}", dtype="float64").sort_values()

    def pareto(self, cost: str, quality: str = "accuracy") -> pd.DataFrame:
        """Return each group's cost and quality, cheapest first, and whether nobody beats it in both."""
        import pandas as pd

        front = pareto_front(self.groups, cost, quality)
        rows = [
            {
                "group": group.label,
                cost: group.statistic(cost)[0],
                quality: group.statistic(quality)[0],
                "on the front": group.label in front,
            }
            for group in self.groups
        ]
        return pd.DataFrame(rows).sort_values(cost, ignore_index=True)

    def _numbers(self, is_wanted: Callable[[str], bool], column: str) -> pd.DataFrame:
        values = {
            record.path: numbers
            for group in self.groups
            for record, numbers in zip(group.records, group.values, strict=True)
        }
        return self._frame(
            lambda _, record: [
                {column: name, "value": value}
                for name, value in values[record.path].items()
                if is_wanted(name)
            ]
        )

    def _frame(self, rows: Callable[[Group, Record], Iterable[Mapping[str, Any]]]) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(
            [
                {**_identity(group, record), **row}
                for group in self.groups
                for record in group.records
                for row in rows(group, record)
            ]
        )

    def _logs(self, read: Callable[[Record], Mapping[str, NDArray[np.generic]]]) -> pd.DataFrame:
        import pandas as pd

        frames = []
        for group in self.groups:
            for record in group.records:
                frame = pd.DataFrame(read(record))
                for place, (name, value) in enumerate(_identity(group, record).items()):
                    frame.insert(place, name, value)
                if len(frame):
                    frames.append(frame)
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _identity(group: Group, record: Record) -> dict[str, Any]:
    variant = record.spec.deployed.name if record.spec.deployed else ""
    return {"run": str(record.path), "group": group.label, "seed": record.spec.run.seed, "variant": variant}


def _about(record: Record) -> dict[str, Any]:
    sections = record.spec.sections()
    names = {kind: table.pop("name") for kind, table in sections.items() if "name" in table}
    options = {f"{kind}.{key}": value for kind, table in sections.items() for key, value in table.items()}
    return {**names, "version": record.version, **record.read_json("hashes.json"), **options}


def _cells(record: Record) -> Iterator[dict[str, Any]]:
    matrix = record.read_json("matrix.json")
    num_test = matrix.get("num_test") or [None] * len(matrix["accuracy"])
    for after, row in enumerate(matrix["accuracy"]):
        for task, accuracy in enumerate(row):
            masked = matrix["masked"][after][task] if matrix.get("masked") else None
            yield {
                "after": after,
                "task": task,
                "accuracy": float("nan") if accuracy is None else accuracy,
                "masked": float("nan") if masked is None else masked,
                "num_test": num_test[task],
            }


def _costs_by_task(record: Record) -> Iterator[dict[str, Any]]:
    from clbench.report.columns import flat

    for costs in record.read_json("costs.json").get("by_task", []):
        for name, value in flat(costs).items():
            if name != "task":
                yield {"after": costs["task"], "cost": name, "value": value}
