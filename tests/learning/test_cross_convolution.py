"""Show that a mean after a convolution is recovered from the mean before it, and that states are kept."""

from __future__ import annotations

from typing import Any, cast

import pytest
import timm
import torch
from torch import Tensor, nn

from clbench import backbones
from clbench.backbones import BackboneOptions
from clbench.learning.cross_convolution import CrossConvolution, PaddingError, Tracker, find_pairs, mean_after


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def convolution(inputs: int, outputs: int, *, seed: int = 0, **options: Any) -> nn.Conv2d:
    """A convolution without bias whose weights are drawn from N(0, 0.1^2)."""
    layer = nn.Conv2d(inputs, outputs, bias=False, **options)
    nn.init.normal_(layer.weight, std=0.1, generator=generator(seed))
    return layer


def network(name: str = "resnet18", seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: nn.Module = timm.create_model(name, num_classes=0).eval()
    return model


def images(size: int, count: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, size, size, generator=generator(seed))


def tiled(mean_SRI: Tensor, size: int) -> Tensor:
    """The image (1, I, size, size) that equals the mean at every place."""
    down, across, _ = mean_SRI.shape
    rows, columns = torch.arange(size) % down, torch.arange(size) % across
    return mean_SRI[rows[:, None], columns].permute(2, 0, 1)[None]


def test_worked_example_at_stride_1() -> None:
    layer = convolution(1, 1, kernel_size=3, padding=1)
    nn.init.ones_(layer.weight)
    # each direction: 3/4 + 1 + 3/4 = 2.5 taps on the image
    assert mean_after(layer, torch.full((1, 1, 1), 2.0), (4, 4)).tolist() == [2 * 2.5**2] == [12.5]


def test_worked_example_at_stride_2() -> None:
    layer = convolution(1, 1, kernel_size=3, padding=1, stride=2)
    nn.init.ones_(layer.weight)
    means = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[:, :, None]  # (even, even), (even, odd), (odd, even), ...
    # taps 0 and 2 meet odd rows, the first of them half of the time: 1/2 + 1 = 1.5; tap 1 meets even rows
    expected = 1 * 1 + 2 * 1.5 + 3 * 1.5 + 4 * 1.5**2
    assert mean_after(layer, means, (4, 4)).tolist() == [expected] == [17.5]


@pytest.mark.parametrize(
    ("kernel", "stride", "size"), [(7, 2, 224), (3, 1, 56), (3, 2, 56), (1, 2, 28), (3, 1, 7), (3, 2, 15)]
)
@pytest.mark.parametrize("options", [{}, {"groups": 2}, {"groups": 4}, {"dilation": 2}])
@torch.no_grad()
def test_closed_form_is_the_mean_of_a_convolved_constant_image(
    kernel: int, stride: int, size: int, options: dict[str, int]
) -> None:
    layer = convolution(4, 8, kernel_size=kernel, stride=stride, padding=kernel // 2, **options)
    means = torch.rand(stride, stride, 4, generator=generator(2))
    expected = layer(tiled(means, size)).mean((0, 2, 3))
    torch.testing.assert_close(mean_after(layer, means, (size, size)), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_closed_form_knows_rows_from_columns_and_adds_the_bias() -> None:
    layer = nn.Conv2d(2, 3, kernel_size=(3, 1), stride=(2, 1), padding=(1, 0))
    nn.init.normal_(layer.weight, generator=generator(0))
    assert layer.bias is not None
    means = torch.rand(2, 1, 2, generator=generator(2))
    image = means[torch.arange(6) % 2][:, torch.zeros(5, dtype=torch.long)].permute(2, 0, 1)[None]
    expected = layer(image).mean((0, 2, 3))
    torch.testing.assert_close(mean_after(layer, means, (6, 5)), expected)


def test_1x1_convolution_at_stride_2_uses_even_rows_and_columns_only() -> None:
    layer = convolution(3, 5, kernel_size=1, stride=2)
    means = torch.rand(2, 2, 3, generator=generator(1))
    expected = layer.weight[:, :, 0, 0] @ means[0, 0]
    torch.testing.assert_close(mean_after(layer, means, (28, 28)), expected)


@torch.no_grad()
def test_recovered_mean_is_ten_times_closer_than_the_stale_one() -> None:
    pixels = torch.rand(64, 16, 14, 14, generator=generator(3))
    before, now = (convolution(16, 32, kernel_size=3, padding=1, seed=seed) for seed in (0, 1))
    stale, true = before(pixels).mean((0, 2, 3)), now(pixels).mean((0, 2, 3))
    recovered = mean_after(now, pixels.mean((0, 2, 3))[None, None], (14, 14))
    assert (recovered - true).norm() < 0.1 * (stale - true).norm()


def test_recovery_is_the_running_mean_for_uniform_images_without_padding() -> None:
    layers = nn.Sequential(convolution(3, 4, kernel_size=3, stride=2), nn.BatchNorm2d(4))
    state = CrossConvolution(find_pairs(layers.eval(), images(9)))
    tracker = cast("Tracker", state.trackers[0])
    layers.train()
    for step in range(5):
        layers(torch.randn(6, 3, 1, 1, generator=generator(step)).expand(6, 3, 9, 9))
        recovered = mean_after(tracker.pair[0].convolution, tracker.mean_SRI, (9, 9))
        torch.testing.assert_close(recovered, layers[1].running_mean)


def test_tracker_moves_by_a_tenth_in_training_mode_only() -> None:
    layers = nn.Sequential(convolution(1, 2, kernel_size=3, stride=2, padding=1), nn.BatchNorm2d(2))
    state = CrossConvolution(find_pairs(layers.eval(), torch.zeros(2, 1, 4, 4)))
    mean_SRI = cast("Tracker", state.trackers[0]).mean_SRI
    image = tiled(torch.tensor([[1.0, 2.0], [3.0, 4.0]])[:, :, None], 4)
    layers(image)
    assert not mean_SRI.any()
    layers.train()
    layers(image)
    torch.testing.assert_close(mean_SRI[:, :, 0], torch.tensor([[0.1, 0.2], [0.3, 0.4]]))
    layers(image)
    torch.testing.assert_close(mean_SRI[:, :, 0], torch.tensor([[0.19, 0.38], [0.57, 0.76]]))


def test_single_pixel_at_stride_2_leaves_the_places_that_it_has_not_at_zero() -> None:
    layers = nn.Sequential(convolution(2, 3, kernel_size=3, stride=2, padding=1), nn.BatchNorm2d(3))
    state = CrossConvolution(find_pairs(layers.eval(), torch.zeros(1, 2, 1, 1)))
    layers.train()(torch.ones(4, 2, 1, 1))
    tracker = cast("Tracker", state.trackers[0])
    assert tracker.mean_SRI.sum().item() == pytest.approx(0.1 * 2)
    assert mean_after(tracker.pair[0].convolution, tracker.mean_SRI, (1, 1)).isfinite().all()


def test_resnet18_has_20_pairs_and_the_published_numbers_of_floats() -> None:
    model = network()
    state = CrossConvolution(find_pairs(model, images(64)))
    trackers = [cast("Tracker", tracker) for tracker in state.trackers]
    assert len(trackers) == 20
    assert sum(tracker.mean_SRI.shape[:2] == (2, 2) for tracker in trackers) == 7
    assert sum(tracker.mean_SRI.numel() for tracker in trackers) == 6_540
    state.begin_task()
    assert state.task_0.numel() == 19_200 + 6_540
    followed = {id(tracker.pair[0].batch_norm) for tracker in trackers}
    assert followed == {id(module) for module in model.modules() if isinstance(module, nn.BatchNorm2d)}


@pytest.mark.parametrize("name", ["resnet26", "resnet50d", "mobilenetv2_035", "mobilenetv3_small_050"])
def test_every_batch_norm_of_other_networks_is_in_a_pair(name: str) -> None:
    model = network(name)
    pairs = find_pairs(model, images(64))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(pairs) == len({id(pair.convolution) for pair in pairs}) == len(norms)
    for pair in pairs:
        assert pair.convolution.out_channels == pair.batch_norm.num_features


def test_pairs_of_an_opened_network_are_those_of_the_network() -> None:
    backbone = backbones.create("mobilenetv2_035", BackboneOptions(weights="none", image_size=64))
    assert len(find_pairs(backbone, images(64))) == len(find_pairs(network("mobilenetv2_035"), images(64)))


def test_trackers_leave_the_output_bit_equal() -> None:
    tracked, plain = network(), network()
    CrossConvolution(find_pairs(tracked, images(64)))
    for mode in (False, True):
        assert torch.equal(tracked.train(mode)(images(64)), plain.train(mode)(images(64)))


def test_state_of_an_old_task_is_put_in_place_with_means_of_the_present_kernels_and_taken_out_again() -> None:
    layers = nn.Sequential(convolution(3, 4, kernel_size=3, padding=1), nn.BatchNorm2d(4))
    state = CrossConvolution(find_pairs(layers.eval(), images(8)))
    norm, tracker = layers[1], cast("Tracker", state.trackers[0])
    kept = []
    for task in range(2):
        state.begin_task()
        with torch.no_grad():
            norm.weight.fill_(task + 1)
            layers[0].weight.mul_(2)
        layers.train()(images(8, seed=task) + task)
        state.keep()
        kept.append([tensor.clone() for tensor in tracker.state()])
    layers.eval()
    before = {name: tensor.clone() for name, tensor in layers.state_dict().items()}
    with state.of_task(0):
        mean, *others = tracker.state()
        assert all(torch.equal(here, then) for here, then in zip(others, kept[0][1:], strict=True))
        assert not torch.allclose(mean, kept[0][0])
        torch.testing.assert_close(mean, mean_after(layers[0], kept[0][-1], (8, 8)))
    assert all(torch.equal(layers.state_dict()[name], before[name]) for name in before)
    with state.of_task(1):
        assert all(torch.equal(here, now) for here, now in zip(tracker.state(), kept[1], strict=True))


def test_batch_norm_that_does_not_follow_a_convolution_is_in_no_pair() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)).eval()
    assert find_pairs(layers, images(8)) == []


@pytest.mark.parametrize(
    "options", [{"padding": "same"}, {"padding": 1, "padding_mode": "reflect"}, {"padding": "valid"}]
)
def test_convolution_with_another_padding_is_refused(options: dict[str, Any]) -> None:
    layers = nn.Sequential(nn.Conv2d(3, 4, 3, **options), nn.BatchNorm2d(4)).eval()
    with pytest.raises(PaddingError, match="as many zeros; one of 3 channels into 4 does not"):
        find_pairs(layers, images(8))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in layers)


def test_padding_that_timm_computes_anew_for_each_image_is_refused() -> None:
    with pytest.raises(PaddingError, match="one of 3 channels into 16 does not"):
        find_pairs(network("tf_mobilenetv3_small_075"), images(64))
