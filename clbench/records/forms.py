"""Read and write what a run's variants predicted: each lies in the run's folder, and is a record like it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from clbench.records.record import VARIANTS, Record
from clbench.records.spec import Variant
from clbench.records.variants import folder_of


def variant_record(record: Record, variant: Variant) -> Record:
    """Return the record of one variant of a run; nothing need be there yet."""
    spec = record.spec.model_copy(update={"deployed": variant})
    remembered: dict[str, Any] | None = None if record.remembered is None else {}
    return replace(
        record,
        path=record.path / VARIANTS / folder_of(variant),
        spec=spec,
        within=record,
        remembered=remembered,
    )


def with_variants(record: Record) -> list[Record]:
    """Return a finished run, and behind it its variants."""
    variants = [variant_record(record, variant) for variant in record.spec.variants]
    return [record, *(each for each in variants if each.is_finished)]
