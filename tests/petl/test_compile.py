"""Show that torch.compile changes no output, and traces all but two modules of peft in one graph."""

from __future__ import annotations

import pytest
import timm
import torch

from clbench import petl

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Dynamo:UserWarning")]
BREAKS = {"peft.shira", "peft.waveft"}  # a sparse tensor, and a cast to a type: not traced by torch 2.15


@pytest.mark.parametrize("name", petl.names())
@torch.no_grad()
def test_compiled_output_is_the_eager_one(name: str) -> None:
    torch.compiler.reset()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vit = timm.models.VisionTransformer(16, 8, embed_dim=64, depth=1, num_heads=2, num_classes=3).eval()
    attached = petl.attach(vit, name)
    for parameter in attached.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    expected = vit(images)
    # aot_eager traces and functionalises as every backend does, without a C++ compiler
    compiled = torch.compile(vit, backend="aot_eager", fullgraph=name not in BREAKS)
    torch.testing.assert_close(compiled(images), expected, atol=1e-5, rtol=1e-5)
    attached.enabled = False
    bare = vit(images)
    torch.testing.assert_close(compiled(images), bare, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(bare, expected) or not attached.num_parameters
