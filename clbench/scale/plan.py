"""See which of some runs lie in a folder already, finished or stopped, so that none is done twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clbench import strategies
from clbench.outside.reading import RecordError
from clbench.records.record import Record
from clbench.records.spec import RunSpec
from clbench.runs.sources import is_same_source


@dataclass(frozen=True)
class Planned:
    """A run that is wanted, and the record of it that is there: finished, or to go on with."""

    spec: RunSpec
    record: Record | None = None

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.record is not None and self.record.is_finished


def planned(specs: Sequence[RunSpec], out: Path, *, again: bool = False) -> list[Planned]:
    """Find for each spec the latest record in ``out`` that is of it, a finished one before a stopped one.

    A record counts if its id is equal and the strategy's source is what it was; of a stream, backbone or
    module given by its file, the file must be older. With ``again`` none counts.
    """
    return [Planned(spec, None if again else _found(spec, out)) for spec in specs]


def _found(spec: RunSpec, out: Path) -> Record | None:
    records = [record for record in _of_id(spec, out) if _is_as_it_was(record)]
    return max(records, key=lambda record: (record.is_finished, _age(record)), default=None)


def _of_id(spec: RunSpec, out: Path) -> Iterator[Record]:
    for folder in sorted(out.glob(f"*_{spec.id[:8]}*")):
        try:
            record = Record.open(folder)
        except RecordError:  # a report says what is wrong with it; here it is done anew
            continue
        if record.spec.id == spec.id:
            yield record


def _is_as_it_was(record: Record) -> bool:
    spec = record.spec
    try:
        source = str(record.read_json("hashes.json")["strategy_source"])
    except (RecordError, KeyError, TypeError):  # it was killed before it had begun
        return False
    if not is_same_source(source, strategies.get(spec.strategy.name)):
        return False
    names = (part.name for part in (spec.stream, spec.backbone, spec.petl))
    files = [Path(name.partition(".py")[0] + ".py") for name in names if ".py" in name]
    return all(not file.is_file() or file.stat().st_mtime <= _age(record) for file in files)


def _age(record: Record) -> float:
    """Return when the record was last known to be made, in seconds of the clock."""
    file = record.path / ("metrics.json" if record.is_finished else "hashes.json")
    return file.stat().st_mtime
