"""Draw a table's rows as points: accuracy over a number of bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clbench.report.pictures import Picture, Point
from clbench.report.pictures import scatter as scatter_points
from clbench.report.units import quantity


def scatter(
    rows: Sequence[Mapping[str, object]], over: str, *, title: str, below: str, label: str
) -> Picture:
    """Draw each row's accuracy over a column of bytes, on a logarithmic scale; a row with 0 is a line."""
    points = [
        Point(
            name=str(row["row"]),
            cost=float(str(row[over])),
            accuracy=float(str(row["accuracy"])),
            accuracy_std=float(str(row.get("accuracy_std") or "nan")),
        )
        for row in rows
    ]
    return scatter_points(
        points,
        label=f"{label} (logarithmic)",
        tick=lambda num_bytes: quantity(num_bytes, unit="B"),
        title=title,
        below=below,
    )
