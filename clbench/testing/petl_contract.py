"""Check that a module keeps the contract of every module; ``clbench.testing.check_petl`` is this."""

from __future__ import annotations

import torch
from safetensors.torch import load, save
from torch import Tensor
from torch.nn import functional as F

from clbench import backbones
from clbench.backbones import BackboneOptions
from clbench.backbones.backbone import Backbone
from clbench.options import refuse_odd_class
from clbench.outside.mistakes import explained
from clbench.petl import Petl
from clbench.petl.attached import Attached, swapped
from clbench.petl.scheduled import scheduled
from clbench.petl.ssf import SSF
from clbench.seeds import forked
from clbench.testing.attributes import unregistered
from clbench.testing.promises import Told, nobody
from clbench.testing.seen import drawn_images, features_of, gap

CLOSE = 1e-5  # what two orders of the same float32 sums may differ by, relative to the features' size
HALF_CLOSE = 0.2  # what the 8 bits of bfloat16 may add up to in a few layers of random weights


def check_petl(petl: Petl, on: str | Backbone = "vit-micro", *, told: Told = nobody) -> None:
    """Attach, train, switch, merge, copy, save, load and detach a module on a small backbone.

    ``on`` is a backbone, or the name of one that gets random weights; ``told`` hears of each promise that is
    kept. AssertionError, or PluginError where the module's own code fails, says in a line what was broken.

    Checked: it is a dataclass whose options can be used; every trained tensor is registered; identity at the
    start exactly where declared; training steps, two unless declared, reach every trained tensor and no
    frozen one; disabled, the backbone is bit for bit what it was; merged equals unmerged, or merging is
    refused; a copy is independent; a saved state restores the output; a feature depends on its own image
    alone; it works under bf16 autocast; detached, nothing of it is left.
    """
    refuse_odd_class(type(petl))
    told("it is a dataclass, whose options can be set and whose methods can be called")
    backbone = on if isinstance(on, Backbone) else backbones.create(on, BackboneOptions(weights="none"))
    with explained(petl):
        _check(petl, backbone, told)


def _check(petl: Petl, backbone: Backbone, told: Told) -> None:
    images = drawn_images(backbone, torch.Generator().manual_seed(0))
    _fill_biases(backbone)
    base, state = features_of(backbone, images), _snapshot(backbone)
    attached = _attached_anew(petl, backbone)
    told("every tensor that is to be trained is registered, and drawn from the generator given")
    if petl == type(petl)():  # what is declared is declared of the default options
        far = gap(features_of(backbone, images), base)
        is_as_declared = far < CLOSE if petl.identity_at_start else far > 0
        declared = f"identity_at_start is {petl.identity_at_start}"
        assert is_as_declared, f"{declared}, yet the features differ by {far:.1e}"
        told(f"{declared}, and so it is")
    with forked(5):  # dropout and sampled architectures draw from the global generator
        _train(petl, backbone, attached, images)
    trained = features_of(backbone, images)
    if attached.num_parameters:
        assert not torch.equal(trained, base), "training the module changes no feature"
    told("training reaches each of its tensors, and none of the backbone's")
    attached.enabled = False
    assert torch.equal(features_of(backbone, images), base), "switched off, the module still has an effect"
    attached.enabled = True
    assert torch.equal(features_of(backbone, images), trained), "switched off and on, the module has changed"
    told("switched off, the backbone is bit for bit what it was")
    _check_life(petl, backbone, attached, images, told)
    attached.detach()
    assert not any(site.attached for site in backbone.sites.values()), "detached, a branch is left at a site"
    assert torch.equal(features_of(backbone, images), base), "detached, the module still has an effect"
    after = _snapshot(backbone)
    assert all(torch.equal(after[name], state[name]) for name in state), "the backbone's own tensors changed"
    told("detached, nothing of it is left")


def _check_life(petl: Petl, backbone: Backbone, attached: Attached, images: Tensor, told: Told) -> None:
    """Merge it, copy it, save it and so on; each check ends with the features that it began with."""
    features = features_of(backbone, images)
    _check_merge(petl, backbone, attached, images, features)
    told("merged, it gives the same features" if petl.mergeable else "that it merges is refused")
    _check_copy(backbone, attached, images, features)
    told("a copy is independent")
    _check_saved_state(petl, backbone, attached, images, features)
    told("saved and loaded, it gives the same features")
    _check_batch_mates(backbone, images, features)
    told("an image's features do not depend on the others of its batch")
    _check_company(backbone, attached, images, features)
    told("another module can stand beside it")
    _check_half_precision(backbone, images, features)
    told("it computes in half precision")


def _attached_anew(petl: Petl, backbone: Backbone) -> Attached:
    """Attach, and expect everything that is to be trained among the parameters."""
    attached = _attach(petl, backbone, seed=1)
    outside = unregistered([*attached.branches, *attached.shared], [backbone, attached])
    assert not outside, (
        f"{outside[0].replace('self[', 'branch[', 1)} requires a gradient but is not registered: assign it to"
        " the branch itself, or hold several in nn.ParameterList or nn.ModuleList"
    )
    return attached


@torch.no_grad()
def _fill_biases(backbone: Backbone) -> None:
    """Draw the biases, which random weights have at zero: that hides what is done to them."""
    generator = torch.Generator().manual_seed(5)
    for name, parameter in backbone.named_parameters():
        if name.endswith("bias"):
            parameter.normal_(0, 0.1, generator=generator)


def _snapshot(backbone: Backbone) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in backbone.state_dict().items()}


def _attach(petl: Petl, backbone: Backbone, *, seed: int) -> Attached:
    before = torch.get_rng_state()
    attached = petl.attach(backbone, torch.Generator().manual_seed(seed))
    assert torch.equal(before, torch.get_rng_state()), "attaching draws from torch's global generator"
    return attached


def _train(petl: Petl, backbone: Backbone, attached: Attached, images: Tensor) -> None:
    """Take a few steps of gradient descent towards random features."""
    parameters = dict(attached.named_parameters())
    if not parameters:
        return
    generator = torch.Generator().manual_seed(2)
    target = torch.randn(len(images), backbone.width, generator=generator)
    attached.train()
    optimizer = torch.optim.Adam(parameters.values(), lr=0.01)
    reached: set[str] = set()
    for _ in range(petl.steps_to_reach_all):
        optimizer.zero_grad()
        torch.autograd.backward(F.mse_loss(backbone(images), target))
        reached |= {name for name, p in parameters.items() if p.grad is not None and p.grad.any()}
        optimizer.step()
    attached.eval()
    for part in scheduled([attached]):
        part.progress.fill_(1)  # as the loop does when a task's training has ended
    unreached = [
        name for name in parameters if name not in reached and not name.endswith(petl.without_effect)
    ]
    assert not unreached, f"no gradient reaches {unreached[0]} in {petl.steps_to_reach_all} steps"
    attached.enabled = False
    frozen = [name for name, parameter in backbone.named_parameters() if parameter.grad is not None]
    attached.enabled = True
    assert not frozen, f"a gradient reaches frozen tensors: {frozen[:3]}"


def _check_merge(
    petl: Petl, backbone: Backbone, attached: Attached, images: Tensor, unmerged: Tensor
) -> None:
    if not petl.mergeable:
        try:
            attached.merge()
        except TypeError:
            assert torch.equal(features_of(backbone, images), unmerged), "refused, merging changed something"
            return
        raise AssertionError("merge() raises no TypeError although mergeable is False")
    attached.merge()
    far = gap(features_of(backbone, images), unmerged)
    assert far < CLOSE, f"merged and unmerged features differ by {far:.1e}"
    attached.unmerge()
    assert torch.equal(features_of(backbone, images), unmerged), "unmerged again, the features have changed"


def _check_copy(backbone: Backbone, attached: Attached, images: Tensor, features: Tensor) -> None:
    twin = attached.copy()
    assert torch.equal(features_of(backbone, images), features), "making a copy changes the features"
    kept = {name: tensor.clone() for name, tensor in attached.state_dict().items()}
    with torch.no_grad():
        for parameter in attached.parameters():
            parameter.add_(1)
    with swapped(off=attached, on=twin):
        assert torch.equal(features_of(backbone, images), features), "a copy shares tensors with its original"
    attached.load_state_dict(kept)
    assert torch.equal(features_of(backbone, images), features), "swapped back, the module has changed"
    twin.detach()
    assert attached.enabled, "detaching a copy switches its original off"
    assert torch.equal(features_of(backbone, images), features), "detaching a copy changes its original"


def _check_saved_state(
    petl: Petl, backbone: Backbone, attached: Attached, images: Tensor, features: Tensor
) -> None:
    saved = save(attached.state_dict())
    attached.enabled = False
    another = _attach(petl, backbone, seed=3)
    another.load_state_dict(load(saved))
    assert torch.equal(features_of(backbone, images), features), "a saved and loaded module is another one"
    another.detach()
    attached.enabled = True


def _check_company(backbone: Backbone, attached: Attached, images: Tensor, alone: Tensor) -> None:
    """Put another module on the same backbone: both are felt, and each goes without the other."""
    other = _attach(SSF(), backbone, seed=4)
    assert not torch.equal(features_of(backbone, images), alone), (
        "a second module is not felt beside this one"
    )
    attached.enabled = False
    without = features_of(backbone, images)
    attached.enabled = True
    if attached.num_parameters:
        both = features_of(backbone, images)
        assert not torch.equal(both, without), "the module is not felt beside a second one"
    other.detach()
    assert torch.equal(features_of(backbone, images), alone), "a second module leaves traces in this one"


def _check_half_precision(backbone: Backbone, images: Tensor, full: Tensor) -> None:
    """Compute under autocast, and on a backbone that is held in bf16 itself."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert features_of(backbone, images).isfinite().all(), "under bf16 autocast a feature is not finite"
    frozen = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    backbone.model.bfloat16()
    far = gap(features_of(backbone, images), full)
    backbone.model.float()
    backbone.load_state_dict(frozen)
    assert far < HALF_CLOSE, f"over a bf16 backbone the features differ by {far:.1e}"


def _check_batch_mates(backbone: Backbone, images: Tensor, together: Tensor) -> None:
    alone = torch.cat([features_of(backbone, image[None]) for image in images])
    far = gap(alone, together)
    assert far < CLOSE, f"a feature depends on the other images of its batch: {far:.1e}"
