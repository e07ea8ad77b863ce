"""Files of a stranger's record: what they claim is checked before memory is asked for, and nothing hangs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from clbench.outside import foreign
from clbench.outside.reading import RecordError
from clbench.records.record import Record


def test_json_that_is_nested_too_deep_is_one_line(tmp_path: Path, make_run: Callable[..., Record]) -> None:
    record = make_run(tmp_path)
    (record.path / "metrics.json").write_text("[" * 200_000)
    with pytest.raises(RecordError, match=r"cannot read .*metrics\.json") as refusal:
        record.read_json("metrics.json")
    assert "\n" not in str(refusal.value)


def test_columns_that_claim_more_than_any_log_are_refused(
    tmp_path: Path, make_run: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal values take next to nothing in the file, and eight bytes each in memory."""
    monkeypatch.setattr(foreign, "MOST_TABLE", 1 << 16)
    record = make_run(tmp_path)
    (record.path / "predictions").mkdir()
    file = record.path / "predictions" / "after-task-00.parquet"
    parquet.write_table(pa.table({"row": np.zeros(10_000)}), file, compression="zstd")
    assert file.stat().st_size < 2_000
    with pytest.raises(RecordError, match="it says that it holds 10000 rows, more than any log") as refusal:
        record.predictions()
    assert "\n" not in str(refusal.value)


def test_a_pipe_in_a_record_hangs_nothing(tmp_path: Path, make_run: Callable[..., Record]) -> None:
    record = make_run(tmp_path)
    (record.path / "metrics.json").unlink()
    os.mkfifo(record.path / "metrics.json")
    with pytest.raises(RecordError, match="it is a pipe, not a file"):
        record.read_json("metrics.json")
