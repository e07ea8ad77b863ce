"""Compute every metric of a run whose predictions are made."""

from __future__ import annotations

from collections.abc import Iterable

from clbench import evaluate
from clbench.outside.mistakes import PluginError
from clbench.records.forms import variant_record
from clbench.records.record import Record

Failed = list[PluginError]


def measured(record: Record) -> tuple[dict[str, float], Failed]:
    """Return the metrics, and the errors of those that failed: the run is not to be lost for them."""
    results, values, failed = record.results(), {}, []
    for name, metric in evaluate.METRICS.items():
        try:
            values[name] = metric(results)
        except PluginError as error:
            failed.append(error)
    return values, failed


def measure_variants(record: Record) -> Failed:
    """Write the metrics of each of a run's variants, and return what failed."""
    failures: Failed = []
    for each in (variant_record(record, variant) for variant in record.spec.variants):
        metrics, failed = measured(each)
        each.write_json("metrics.json", metrics)
        failures += failed
    return failures


def refuse_unmeasured(failed: Iterable[PluginError]) -> None:
    """Tell of the first metric that failed, now that the run is finished."""
    for error in failed:
        raise PluginError(f"{error}; the run is finished, without this metric") from error
