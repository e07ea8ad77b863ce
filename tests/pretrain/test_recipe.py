"""The recipe of supervised pre-training, piece by piece: rates, batches, targets, what decays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load
from torch.nn import functional as F

from clbench.backbones.sites import Site, Switch
from clbench.data.tasks import Places
from clbench.errors import UserError
from clbench.pretrain.asked import Asked, asked
from clbench.pretrain.end_to_end import WholeTraining
from clbench.pretrain.materials import gathered
from clbench.pretrain.parts.augmentation import augmented, augmenter, erased
from clbench.pretrain.parts.drop_path import attach_drop_path
from clbench.pretrain.parts.glyphs import IMAGES, glyphs
from clbench.pretrain.parts.mixing import mixed
from clbench.pretrain.parts.rates import LEAST_RATE, for_batch, warmed
from clbench.pretrain.parts.training import smoothed, soft_cross_entropy

FEW = {"train_per_class": 8, "test_per_class": 2}  # 70 images to learn from, 10 of validation


def wanted(backbone: str = "vit-micro", **options: object) -> Asked:
    sections = {"pretrain": {"batch_size": 20, "epochs": 1, **options}, "stream": FEW}
    return asked("end-to-end", backbone=backbone, stream="split-digits", sections=sections)


def course(tmp_path: Path, backbone: str = "vit-micro", **options: object) -> WholeTraining:
    what = wanted(backbone, **options)
    begun = what.made_method().begin(gathered(what, Places(cache_dir=tmp_path / "cache")))
    assert isinstance(begun, WholeTraining)
    return begun


@pytest.mark.parametrize("method", ["end-to-end", "incubation"])
def test_it_is_told_beforehand_what_weights_it_begins_with(method: str, tmp_path: Path) -> None:
    for weights, said in ((None, []), ("default", ["begins with the weights of clbench vit-micro"])):
        backbone = {} if weights is None else {"backbone": {"weights": weights}}
        what = asked(
            method, backbone="vit-micro", stream="split-digits", sections={"stream": FEW, **backbone}
        )
        begun = what.made_method().begin(gathered(what, Places(cache_dir=tmp_path / "cache")))
        assert [note for note in begun.notes() if "weights" in note] == said


def test_the_images_of_a_step_are_the_same_whatever_was_asked_before(tmp_path: Path) -> None:
    batches, again = course(tmp_path).training.batches, course(tmp_path).training.batches
    later = [again.drawn(index).tolist() for index in (4, 3, 0)]
    assert later == [batches.drawn(index).tolist() for index in (0, 3, 4)][::-1]
    assert len({*batches.drawn(0), *batches.drawn(1), *batches.drawn(2)}) == 60


def test_the_rate_is_in_proportion_to_the_batch() -> None:
    assert for_batch(5e-4, 2048) == pytest.approx(2e-3)


def test_the_rate_rises_in_a_line_and_falls_by_a_cosine() -> None:
    rates = [warmed(2e-3, step=step, num_steps=100, warm_up=20) for step in range(100)]
    assert rates[0] == 1e-6
    assert rates[10] == pytest.approx(1e-6 + (2e-3 - 1e-6) / 2)
    assert rates[50] == pytest.approx((2e-3 + LEAST_RATE) / 2)
    assert rates[99] < 1.2 * LEAST_RATE
    assert max(rates) == rates[19] == pytest.approx(1.9e-3, rel=1e-3)  # the cosine has begun at step 0


def test_without_a_recipe_the_numbers_are_small_and_with_deit_those_of_the_paper() -> None:
    small, deit = wanted().method.options, wanted(recipe="deit", epochs=300).method.options
    assert small["epochs"] == 1
    named = ("learning_rate", "weight_decay", "warm_up", "mixup", "cutmix", "erasing", "repeats", "drop_path")
    assert [deit[name] for name in named] == [5e-4, 0.05, 20, 0.8, 1, 0.25, 3, 0.1]


def test_targets_by_hand() -> None:
    targets = smoothed(torch.tensor([2, 0]), 4, 0.2)
    assert targets.tolist() == [
        pytest.approx([0.05, 0.05, 0.85, 0.05]),
        pytest.approx([0.85, 0.05, 0.05, 0.05]),
    ]
    logits = torch.tensor([[1.0, 2, 3, 4], [0, 1, 0, 1]])
    expected = F.cross_entropy(logits, torch.tensor([2, 0]), label_smoothing=0.2)
    assert soft_cross_entropy(logits, targets) == pytest.approx(float(expected))


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0), (0, 1.0), (0.8, 1.0)])
def test_what_an_image_is_made_of_is_told_with_it(mixup: float, cutmix: float) -> None:
    whole = torch.arange(6.0)[:, None, None, None].expand(6, 3, 16, 16)  # image i is all i
    images, shares = mixed(whole.clone(), 5, mixup=mixup, cutmix=cutmix)
    assert shares.sum(dim=1) == pytest.approx(torch.ones(6))
    assert images.mean(dim=(1, 2, 3)) == pytest.approx(shares @ torch.arange(6.0), abs=1e-4)
    assert (shares > 0).sum() > 6


def test_an_epoch_has_a_part_of_the_images_as_often_as_repeats_says(tmp_path: Path) -> None:
    batches = course(tmp_path, repeats=3).training.batches
    assert batches.an_epoch == 70 // 20
    drawn = np.concatenate([batches.drawn(step) for step in range(3)])
    found, counts = np.unique(drawn, return_counts=True)
    assert len(drawn) == 60
    assert len(found) == 20
    assert set(counts.tolist()) == {3}
    once = course(tmp_path).training.batches
    assert len({int(place) for step in range(3) for place in once.drawn(step)}) == 60
    assert not np.array_equal(once.drawn(0), once.drawn(3))  # another epoch, another order


def test_pictures_are_changed_at_random_by_the_seed() -> None:
    from clbench.backbones.backbone import Preprocessing

    preprocessing = Preprocessing(32, (0.5,) * 3, (0.5,) * 3, 1.0, "bilinear")
    levels = torch.randint(256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    images = levels / 127.5 - 1
    transform = augmenter("rand-m9-mstd0.5-inc1", preprocessing)
    first, again, other = (augmented(images, transform, preprocessing, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == images.shape
    assert first.abs().max() <= 1
    nothing = augmenter("rand-n0", preprocessing)
    assert augmented(images, nothing, preprocessing, 1) == pytest.approx(images, abs=1e-5)
    holes = erased(images.clone(), 1.0, 3)
    share = (holes != images).any(dim=1).float().mean(dim=(1, 2))
    assert bool(((share > 0.01) & (share < 0.5)).all())
    assert torch.equal(holes, erased(images.clone(), 1.0, 3))


def test_a_name_that_no_augmentation_has_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pretrain.auto_augment: timm knows no 'rnd-m9'; take rand-m9"):
        course(tmp_path, auto_augment="rnd-m9")


def test_neither_vectors_nor_positions_and_tokens_decay(tmp_path: Path) -> None:
    network = course(tmp_path).network
    decays, others = network.groups(0.05)
    assert (decays["weight_decay"], others["weight_decay"]) == (0.05, 0.0)
    spared = {id(each) for each in others["params"]}
    named = network.named()
    assert {name for name in network.learning if id(named[name]) in spared} >= {
        "pos_embed",
        "cls_token",
        "head.bias",
        "norm.weight",
        "blocks.0.norm1.weight",
    }
    assert all(each.ndim > 1 for each in decays["params"])
    everything, vectors = network.groups(0.05, decays_all=True)
    assert id(named["pos_embed"]) in {id(each) for each in everything["params"]}
    assert all(each.ndim == 1 for each in vectors["params"])


def test_parts_of_a_batch_have_the_gradient_of_the_batch(tmp_path: Path) -> None:
    whole, parts = course(tmp_path, clip=0), course(tmp_path, clip=0, accumulate=2)
    for each in (whole, parts):  # a batch norm would see other batches
        for _, module in each.network.backbone.own_modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.requires_grad_(False)
    losses = whole.step(0), parts.step(0)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    first, second = (each.network.head.weight.grad for each in (whole, parts))
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-7)


def test_paths_are_dropped_in_training_alone(tmp_path: Path) -> None:
    training = course(tmp_path, drop_path=0.9).training
    images, _ = training.batches.batch(0)
    training.network.set_training(False)
    first, second = training.network(images), training.network(images)
    assert torch.equal(first, second)
    training.dropping.on = True
    assert not torch.equal(training.network(images), first)


def test_glyphs_of_one_class_are_alike_and_of_two_are_not() -> None:
    images, labels = glyphs(6, 20, (32, 24), torch.Generator().manual_seed(0))
    assert images.shape == (120, 32, 24, 3)
    assert images.dtype == np.uint8
    assert np.bincount(labels).tolist() == [20] * 6
    again, _ = glyphs(6, 20, (32, 24), torch.Generator().manual_seed(0))
    assert np.array_equal(images, again)
    flat = images.reshape(120, -1, 3).astype(np.float64)
    ink = np.abs(flat - flat[:, :1]).sum(axis=2)  # what differs from the paper at the corner
    ink /= np.linalg.norm(ink, axis=1, keepdims=True)
    means = np.stack([ink[labels == label].mean(axis=0) for label in range(6)])
    assert ((ink @ means.T).argmax(axis=1) == labels).mean() > 0.7  # a sixth by chance


def test_glyphs_are_learnt_from_and_never_asked_for(tmp_path: Path) -> None:
    with_them, without = course(tmp_path, glyphs=3), course(tmp_path)
    assert len(with_them.materials.train) == 70 + 3 * IMAGES
    assert with_them.network.head.out_features == 13
    assert with_them.num_steps > without.num_steps
    with_them.step(0)
    with torch.no_grad():
        with_them.network.head.bias[10:] = 1e3  # it would say so of every image
    assert with_them.examined()["test"]["images"] == 20
    assert load(with_them.product({}))["head.weight"].shape == (10, 128)
    assert with_them.examined()["test"]["accuracy"] > 0


def test_a_teacher_has_an_opinion_of_every_image_of_the_stream(tmp_path: Path) -> None:
    begun = course(tmp_path, teacher="vit-micro", teacher_share=0.25, glyphs=2, label_smoothing=0)
    batches, materials = begun.training.batches, begun.materials
    assert batches.ask_teacher() > 70 * 60e6  # about 68 MFLOP an image
    assert batches.ask_teacher() == 0
    targets = batches.targets(np.arange(len(materials.train)))
    labels = torch.from_numpy(materials.train.labels)
    assert targets.shape == (70 + 2 * IMAGES, 12)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(len(targets)))
    told = materials.told["opinions"]
    hard = F.one_hot(labels, 12).float()
    torch.testing.assert_close(targets[:70], 0.75 * hard[:70] + 0.25 * told[:70])
    assert torch.equal(targets[70:], hard[70:])
    assert told[:70].argmax(dim=1).eq(labels[:70]).float().mean() > 0.5
    assert {"opinions"} <= begun.state().keys()


def test_half_precision_is_kept_where_it_is_asked_for(tmp_path: Path) -> None:
    begun = course(tmp_path, "resnet20", stored="fp16")
    made = load(begun.product({"seed": "0"}))
    assert made["conv1.weight"].dtype == torch.float16
    assert made["bn1.num_batches_tracked"].dtype == torch.int64


def test_blocks_without_sub_layers_are_not_left_out(tmp_path: Path) -> None:
    begun = course(tmp_path)
    begun.network.backbone.blocks[1].sites.clear()
    begun.network.backbone.blocks[1].sites[""] = Site("block[1]", torch.nn.Identity(), 128)
    with pytest.raises(UserError, match=r"^block\[1\] of .* drop paths of none: --set pretrain.drop_path=0"):
        attach_drop_path(begun.network.backbone, 0.1, Switch())
