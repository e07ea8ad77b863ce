"""The quickest way to multiply is found once, kept, and can be pinned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from clbench.quant.kernels import library, ways
from clbench.quant.kernels.kernel_layer import KernelLayer, Way
from clbench.quant.kernels.library import KernelError
from clbench.quant.parts.low_bit_weight import LowBitWeight

HERE = library.running()

needs_kernels = pytest.mark.skipif(not HERE, reason="installed without kernels, or none runs here")


def some(bits: int = 2) -> KernelLayer:
    codes = torch.arange(64 * 20).view(20, 64) % 2**bits
    stored = LowBitWeight.of(codes, torch.ones(20, 1), torch.zeros(20, 1), bits)
    return KernelLayer(HERE[0], stored.planes, stored.scale, stored.zero, 64)


@needs_kernels
def test_a_way_is_timed_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "new" / "known.json"
    found = ways.Ways(file).way(some(), 1)
    held = json.loads(file.read_text())
    assert list(held.values()) == [found.name]
    monkeypatch.setattr(ways, "quickest", lambda layer, tokens: pytest.fail("timed again"))
    assert ways.Ways(file).way(some(), 1) is found


@needs_kernels
@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 3}', '{"a": "SIDEWAYS"}', "\x00"])
def test_a_file_that_is_damaged_is_as_good_as_none(text: str, tmp_path: Path) -> None:
    file = tmp_path / "known.json"
    file.write_text(text)
    assert ways.Ways(file).way(some(), 0) in Way
    assert len(json.loads(file.read_text())) == 1


@needs_kernels
def test_what_another_process_has_found_meanwhile_counts(tmp_path: Path) -> None:
    file = tmp_path / "known.json"
    one, other = ways.Ways(file), ways.Ways(file)
    other.way(some(), 0)
    (key,) = json.loads(file.read_text())
    file.write_text(json.dumps({key: "EXPANDED", "of something else": "LOOK_UP"}))
    assert one.way(some(), 0) is Way.EXPANDED
    assert len(json.loads(file.read_text())) == 2


@needs_kernels
def test_what_cannot_be_kept_is_timed_again(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert ways.Ways(tmp_path / "file" / "known.json").way(some(), 0) in Way


@needs_kernels
@pytest.mark.parametrize("way", library.WAYS)
def test_a_way_can_be_pinned(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.VARIABLE, f"{HERE[0]}:{way}")
    monkeypatch.setattr(ways, "quickest", lambda layer, tokens: Way.EXPANDED)
    layer = some()
    wanted = Way[way.upper().replace("-", "_")]
    chosen = ways.way_of(layer, 5)
    assert chosen is (wanted if wanted in (*layer.ways(), Way.EXPANDED) else Way.EXPANDED)


@needs_kernels
def test_each_number_of_tokens_has_its_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.VARIABLE, "")
    asked: list[int] = []

    class Asked:
        def way(self, layer: KernelLayer, bucket: int) -> Way:
            asked.append(bucket)
            return Way.EXPANDED

    monkeypatch.setattr(ways, "_known", Asked)
    for tokens in (1, 2, 8, 9, 64, 65, 1000, 1):
        ways.way_of(layer := some(), tokens)
        ways.way_of(layer, tokens)
    assert asked == [0, 1, 1, 2, 2, 3, 3, 0]


def test_portable_is_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.VARIABLE, library.PORTABLE)
    assert library.chosen() is None
    assert library.kernels_for(2) is None


@pytest.mark.parametrize("text", ["avx", "avx512:lookup", "sse", ":look-up", "portable:look-up"])
def test_what_does_not_run_here_is_refused_in_one_line(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.VARIABLE, text)
    with pytest.raises(KernelError) as caught:
        library.chosen()
    said = str(caught.value)
    assert said.startswith(f"CLBENCH_KERNELS={text!r} does not run here")
    assert "portable" in said
    assert "\n" not in said
