"""Fill the tables of docs/cross-checks.md: what clbench and other libraries report for the same predictions.

    python benchmarks/cross_checks.py          # writes the page's tables anew; a test holds them equal
    python benchmarks/cross_checks.py --runs   # makes the two runs on the digits anew, too

Ours are computed by ``clbench.evaluate``, Avalanche's by its own classes, fed with the same predictions in
its own loop, and the others' by their published formulas (``peer_formulas.py``).
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

from cross_check_tables import DIGITS, TABLES
from matrices import COLUMNS
from tables import as_csv, finished

from clbench.files import write_text
from clbench.records.resolving import resolve

PAGE = Path(__file__).parents[1] / "docs" / "cross-checks.md"


def main() -> None:
    """Write the page's tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", action="store_true", help="make the runs on the digits anew")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="where their records go")
    options = parser.parse_args()
    if options.runs:
        rows = [line for strategy in ("naive", "er") for line in predictions_of(strategy, options.out)]
        write_text(DIGITS, as_csv(rows))
    write_text(PAGE, filled(PAGE.read_text(encoding="utf-8")))


def filled(page: str) -> str:
    """Return the page with every table between ``<!-- table: NAME -->`` and ``<!-- end -->`` made anew."""

    def block(match: re.Match[str]) -> str:
        head, *rows = TABLES[match[1]]()
        lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"<!-- table: {match[1]} -->\n{table}\n<!-- end -->"

    return re.sub(r"<!-- table: (\S+) -->\n.*?<!-- end -->", block, page, flags=re.DOTALL)


def predictions_of(strategy: str, out: Path) -> list[Mapping[str, object]]:
    """Return what a strategy predicts of the digits, cut into tasks of four, three and three classes."""
    spec = resolve({"stream": {"tasks": "B4-Inc3"}, "strategy": {"name": strategy}})
    log = finished(spec, out, Path()).predictions()
    columns = [log[name].tolist() for name in COLUMNS]
    return [
        {"strategy": strategy, **dict(zip(COLUMNS, values, strict=True))}
        for values in zip(*columns, strict=True)
    ]


if __name__ == "__main__":
    main()
