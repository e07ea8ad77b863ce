"""A checkpoint is whole or is passed over."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clbench.runs.checkpoint import Checkpoint, Position, load_checkpoint, save_checkpoint


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint(
        Position(1, 2, step), {"weights": torch.full((64,), float(step))}, {"seconds": 0.1 * step}
    )


def test_what_is_saved_is_loaded(tmp_path: Path):
    save_checkpoint(tmp_path, checkpoint(3))
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded.position == Position(1, 2, 3)
    assert loaded.info == {"seconds": 0.1 * 3}
    assert torch.equal(loaded.tensors["weights"], torch.full((64,), 3.0))


def test_the_newest_and_the_one_before_are_kept(tmp_path: Path):
    paths = [save_checkpoint(tmp_path, checkpoint(step)) for step in range(4)]
    assert sorted(tmp_path.iterdir()) == paths[-2:]


def test_nothing_saved_gives_nothing(tmp_path: Path):
    assert load_checkpoint(tmp_path / "missing") is None


@pytest.mark.parametrize("length", [0, 4, 20, 200, -1])
def test_a_truncated_checkpoint_gives_way_to_the_one_before(tmp_path: Path, length: int):
    save_checkpoint(tmp_path, checkpoint(1))
    newest = save_checkpoint(tmp_path, checkpoint(2))
    newest.write_bytes(newest.read_bytes()[:length])
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded.position.step == 1


@pytest.mark.parametrize("place", [0, 9, 100, -1])
def test_a_flipped_bit_is_noticed(tmp_path: Path, place: int):
    save_checkpoint(tmp_path, checkpoint(1))
    newest = save_checkpoint(tmp_path, checkpoint(2))
    data = bytearray(newest.read_bytes())
    data[place] ^= 4
    newest.write_bytes(bytes(data))
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded.position.step == 1


def test_a_file_left_by_a_killed_write_is_ignored(tmp_path: Path):
    save_checkpoint(tmp_path, checkpoint(1))
    (tmp_path / "000009-0123456789abcdef.safetensors.part").write_bytes(b"half")
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded.position.step == 1


def test_shared_tensors_are_saved_in_full(tmp_path: Path):
    whole = torch.arange(6.0)
    save_checkpoint(tmp_path, Checkpoint(Position(), {"a": whole, "b": whole[2:]}, {}))
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert torch.equal(loaded.tensors["b"], whole[2:])
