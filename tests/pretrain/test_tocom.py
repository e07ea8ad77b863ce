"""ToCom's training: which degrees are drawn, who learns from whom, and that the file does what was learnt."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from clbench import backbones, compress
from clbench.backbones.creation import classifier_of
from clbench.compress.parts.compensation import FORMAT
from clbench.data.tasks import Places
from clbench.pretrain.asked import Asked, asked
from clbench.pretrain.materials import gathered
from clbench.pretrain.parts.agreement import compared, divergence
from clbench.pretrain.parts.drop_path import attach_drop_path
from clbench.pretrain.parts.mixing import mixed
from clbench.pretrain.parts.rates import cosine
from clbench.pretrain.tocom import Distillation, ToCom

FEW = {"train_per_class": 8, "test_per_class": 4}


def small(stream: dict[str, object] | None = None, **options: object) -> Asked:
    """Few steps on few digits."""
    chosen = {"batch_size": 8, "max_steps": 3, **options}
    return asked(
        "tocom",
        backbone="vit-micro",
        stream="split-digits",
        sections={"pretrain": chosen, "stream": {**FEW, **(stream or {})}},
    )


def course(tmp_path: Path, stream: dict[str, object] | None = None, **options: object) -> Distillation:
    wanted = small(stream, **options)
    begun = wanted.made_method().begin(gathered(wanted, Places(cache_dir=tmp_path)))
    assert isinstance(begun, Distillation)
    return begun


def test_degrees_differ_and_every_pair_is_as_likely(tmp_path: Path) -> None:
    pairs = Counter(map(course(tmp_path, highest=3).pair, range(2400)))
    assert set(pairs) == {(a, b) for a in range(4) for b in range(4) if a != b}
    assert all(140 < count < 260 for count in pairs.values())  # 200 each; four standard deviations are 54


def test_degrees_are_those_of_the_seed_and_the_step(tmp_path: Path) -> None:
    first, again = course(tmp_path), course(tmp_path)
    drawn = [first.pair(step) for step in range(50)]
    assert drawn == [again.pair(step) for step in reversed(range(50))][::-1]
    assert all(a != b and 0 <= a <= 16 and 0 <= b <= 16 for a, b in drawn)
    assert len(set(drawn)) > 30


def test_the_first_loss_is_that_of_two_backbones_without_a_plug_in(tmp_path: Path) -> None:
    begun = course(tmp_path, augment="none", batch_size=4)
    start, end = begun.pair(0)
    rows = begun.materials.train.rows[begun.orders.of(0)[0]]
    images = begun.batcher.test_batch(rows)
    plain = backbones.create("vit-micro")
    tome = compress.get("tome")
    logits = []
    for degree in (start, end):
        form = tome(removed=degree).compress(plain)  # type: ignore[call-arg]  # options of tome
        logits.append(begun.classifier(plain(images)))
        form.detach()
    teacher, student = (each.double().log_softmax(dim=1) for each in logits)
    expected = (teacher.exp() * (teacher - student)).sum() / (4 * 10)
    assert begun.step(0) == pytest.approx(float(expected.detach()), rel=1e-4)


def test_the_divergence_by_hand() -> None:
    teacher, student = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    expected = 0.5 * (torch.tensor(2.0).log() + torch.tensor(2 / 3).log())
    assert float(divergence(teacher, student)) == pytest.approx(float(expected))
    assert compared(teacher, teacher) == {"divergence": 0, "agreement": 1}


def test_only_the_plug_in_learns(tmp_path: Path) -> None:
    begun = course(tmp_path, drop_path=0.1, mixes=True)
    backbone = begun.backbone
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    head = begun.classifier.weight.clone()
    for index in range(3):
        begun.step(index)
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())
    assert torch.equal(head, begun.classifier.weight)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    learning = sum(parameter.numel() for branch in begun.plugin for parameter in branch.parameters())
    assert learning == 4 * 4 * 128 * 32
    assert all(branch.value_up.any() for branch in begun.plugin)


def test_the_teacher_gets_no_gradient_and_no_plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = course(tmp_path)
    pairs = []
    monkeypatch.setattr(
        "clbench.pretrain.tocom.divergence",
        lambda teacher, student: pairs.append((teacher, student)) or divergence(teacher, student),
    )
    for index in range(3):
        begun.step(index)
    for teacher, student in pairs:
        assert not teacher.requires_grad
        assert student.requires_grad
    images = torch.randn(2, 3, 32, 32)
    plain = backbones.create("vit-micro")
    form = compress.get("tome")(removed=2).compress(plain)  # type: ignore[call-arg]  # options of tome
    assert torch.equal(begun.logits(images, 2), begun.classifier(plain(images)))
    assert not torch.equal(begun.logits(images, 2, repaired_from=0), begun.logits(images, 2))
    form.detach()


def test_steps_beyond_the_highest_degree_stay_none(tmp_path: Path) -> None:
    begun = course(tmp_path, highest=4, max_steps=4)
    for index in range(4):
        begun.step(index)
    for branch in begun.plugin:
        assert not branch.value_up[:, : 32 - 8].any()
        assert branch.value_up[:, 32 - 8 :].any()


def test_the_file_does_in_the_weights_what_was_learnt_beside_them(tmp_path: Path) -> None:
    begun = course(tmp_path)
    for index in range(3):
        begun.step(index)
    file = tmp_path / "plugin.safetensors"
    file.write_bytes(begun.product({"backbone": "vit-micro"}))
    images = torch.randn(2, 3, 32, 32)
    learnt = begun.logits(images, 8, repaired_from=0).detach()
    other = backbones.create("vit-micro")
    tome = compress.get("tome")(removed=8, plugin=str(file), learnt_at=0)  # type: ignore[call-arg]
    tome.compress(other)
    # logits of a discriminant reach some tens
    assert torch.allclose(begun.classifier(other(images)).detach(), learnt, rtol=1e-5, atol=1e-4)


def test_it_helps(tmp_path: Path) -> None:
    begun = course(tmp_path, {"train_per_class": 40, "test_per_class": 10}, highest=4, max_steps=120)
    for index in range(begun.num_steps):
        begun.step(index)
    pairs = begun.examined()["pairs"]
    assert [(pair["from"], pair["to"]) for pair in pairs] == [(0, 2), (0, 4), (2, 0), (2, 4), (4, 0), (4, 2)]
    plain, repaired = (sum(pair[each]["divergence"] for pair in pairs) for each in ("plain", "repaired"))
    assert repaired < 0.8 * plain


def test_training_images_are_neither_validation_nor_test_and_each_is_there_once(tmp_path: Path) -> None:
    options = {"tasks": 5, "validation_rate": 0.25, "arrangement": "repetition", "train_per_class": 20}
    wanted = small(options)
    materials = gathered(wanted, Places(cache_dir=tmp_path))
    rows = materials.train.rows.tolist()
    assert len(set(rows)) == len(rows) == 10 * 15
    assert not set(rows) & set(materials.test.rows.tolist())


def test_the_weights_own_classifier_is_read_where_the_file_has_one(tmp_path: Path) -> None:
    model = backbones.create("vit-micro")
    file = tmp_path / "with-head.safetensors"
    packed = {plain: model.model.state_dict()[name] for plain, name in model.plain_names.items()}
    head = {"head.weight": torch.randn(7, 128), "head.bias": torch.randn(7)}
    save_file({**packed, **head}, file)
    chosen = {"weights": str(file)}
    wanted = asked("tocom", backbone="vit-micro", stream="split-digits", sections={"backbone": chosen})
    begun = wanted.made_method().begin(gathered(wanted, Places(cache_dir=tmp_path)))
    assert isinstance(begun, Distillation)
    assert torch.equal(begun.classifier.weight, head["head.weight"])
    assert "the weights' own classifier, 7 classes" in begun.notes()[0]
    options = backbones.BackboneOptions(weights=str(file))
    assert classifier_of("vit-micro", options, width=64) is None  # of another width


def test_the_discriminant_tells_training_images_apart(tmp_path: Path) -> None:
    begun = course(tmp_path, {"train_per_class": 40})
    train = begun.materials.train
    logits = begun._logits_of(train.rows, 0)
    right = (logits.argmax(dim=1) == torch.from_numpy(train.labels)).float().mean()
    assert right > 0.8  # of ten classes
    assert "a linear discriminant of the training images, 10 classes" in begun.notes()[0]


def test_degrees_that_do_the_same_are_told(tmp_path: Path) -> None:
    # 16 patches: degree 8 leaves 8, 4, 2, 1; higher ones remove half of the patches, too
    assert "degrees 8 to 16 leave the same tokens" in course(tmp_path).notes()[1]
    assert len(course(tmp_path, highest=8).notes()) == 1


def test_the_papers_recipe_gives_way_to_what_is_typed() -> None:
    method = asked(
        "tocom",
        backbone="vit-micro",
        stream="split-digits",
        sections={"pretrain": {"recipe": "paper", "epochs": "2"}},
    ).made_method()
    assert method == ToCom(
        recipe="paper",
        epochs=2,
        max_steps=0,
        batch_size=1024,
        learning_rate=1e-3,
        augment="rrc-flip",
        mixes=True,
        drop_path=0.1,
    )


def test_the_papers_rate_at_its_batch_is_2e_3(tmp_path: Path) -> None:
    begun = course(tmp_path, {"train_per_class": 110, "validation_rate": 0}, recipe="paper", batch_size=1024)
    assert begun.rate == 2e-3
    rates = [cosine(begun.rate, 1e-5, done=done) for done in (0, 0.5, 1)]
    assert rates == pytest.approx([2e-3, 1.005e-3, 1e-5])


def test_paths_are_dropped_more_often_in_deeper_blocks(tmp_path: Path) -> None:
    begun = course(tmp_path, drop_path=0.5)
    rates = [site.attached[-1][1].rate for block in begun.backbone.blocks for site in [block["mlp.residual"]]]
    assert rates == pytest.approx([0, 0.5 / 3, 1 / 3, 0.5])
    images = torch.randn(2, 3, 32, 32)
    before = begun.logits(images, 0)
    attach_drop_path(begun.backbone, 0.0, begun.dropping)
    assert torch.equal(begun.logits(images, 0), before)  # of the student alone
    assert not torch.equal(begun.logits(images, 0, is_learning=True), before)


def test_images_are_mixed_by_the_seed_alone() -> None:
    images = torch.rand(5, 3, 8, 8)
    torch.manual_seed(1)
    first, _ = mixed(images.clone(), 7)
    following = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(following, torch.rand(3))  # torch's own generator is where it was
    assert torch.equal(first, mixed(images.clone(), 7)[0])
    assert not torch.equal(first, mixed(images.clone(), 8)[0])
    assert first.shape == (4, 3, 8, 8)
    # each pixel is one of the two images of a pair, or between them
    low, high = torch.minimum(images[:4], images[:4].flip(0)), torch.maximum(images[:4], images[:4].flip(0))
    assert ((first >= low - 1e-6) & (first <= high + 1e-6)).all()
    assert F.mse_loss(first, images[:4]) > 0


def test_the_header_tells_what_the_plug_in_is_of(tmp_path: Path) -> None:
    from safetensors import safe_open

    file = tmp_path / "plugin.safetensors"
    file.write_bytes(course(tmp_path, rank=1, scale=0.05, highest=8).product({"backbone": "vit-micro"}))
    with safe_open(file, "pt") as opened:
        about = opened.metadata()
    expected = {"format": FORMAT, "backbone": "vit-micro", "rank": "1", "scale": "0.05"}
    assert about == {**expected, "highest_degree": "8"}
    assert {tuple(tensor.shape) for tensor in load_file(file).values()} == {(16, 128), (128, 16)}
