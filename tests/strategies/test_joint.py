"""Show that joint training with MoEfied LoRA and Quality Retaining is EMTAL's multi-task learner."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from clbench import petl, strategies
from clbench.petl.moe_lora import Fade
from clbench.petl.scheduled import scheduled
from clbench.strategies import Strategy
from clbench.testing import check_strategy
from clbench.testing.generated import generated_stream, small_backbone
from clbench.testing.trial import Trial

OPTIONS = {"epochs": 4, "batch_size": 12, "learning_rate": 0.01}


def learnt(module: str = "moe-lora", num_tasks: int = 2, **options: object) -> tuple[Strategy, Trial]:
    """Joint training on generated tasks whose identity is told, at its end."""
    strategy = strategies.get("joint")(**OPTIONS, **options)
    stream = generated_stream(num_tasks, scenario="task")
    trial = Trial(strategy, module, stream, small_backbone(), is_exact=True)
    trial.run()
    return strategy, trial


def images() -> Tensor:
    return torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("form", ["two_sample", "ema"])
def test_quality_retaining_keeps_the_contract(form: str) -> None:
    check_strategy(lambda: strategies.get("joint")(**OPTIONS, quality_retaining=form), "linear")


def test_every_task_is_known_to_the_bank_and_has_a_loss_of_its_own() -> None:
    retaining = learnt("linear", num_tasks=3, quality_retaining="two_sample")[0].retaining
    assert retaining.task_of_class.tolist() == [0, 0, 1, 1, 2, 2]
    assert retaining.width_CJ.tolist() == [[6, 6]] * 6  # all classes were there from the first step on
    assert len(set(retaining.task_loss.tolist())) == 3
    assert retaining.task_loss.max() < 10


def test_a_fresh_model_starts_with_an_empty_bank() -> None:
    """Trained again after each task, the last training knows nothing of those before it."""
    last, every = (
        learnt("linear", when=when, quality_retaining="two_sample")[0] for when in ("last", "every")
    )
    for name, value in last.retaining.state_dict().items():
        assert torch.equal(value, every.retaining.state_dict()[name]), name


def test_the_router_fades_in_the_first_half_of_the_joint_training() -> None:
    @dataclass
    class Watched(strategies.get("joint")):  # type: ignore[misc]
        def begin_epoch(self, epoch: int) -> None:
            seen.append(fade(self))

    seen: list[float] = []
    strategy = Watched(**OPTIONS, quality_retaining="two_sample")
    Trial(strategy, "moe-lora", generated_stream(scenario="task"), small_backbone(), is_exact=True).run()
    assert seen[0] == 1
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] < 0.1
    assert fade(strategy) == 0


def fade(strategy: Strategy) -> float:
    """The share that the routers have."""
    (part,) = (part for part in scheduled(strategy.parts().values()) if isinstance(part, Fade))
    return float(part.coefficient)


def test_what_was_learnt_is_a_plain_vit_with_equal_predictions() -> None:
    """Merged, the backbone's weights load into timm's own network, which gives the same features."""
    strategy = learnt(quality_retaining="two_sample")[0]
    module, backbone, head = strategy.model.module, strategy.model.backbone, strategy.model.head
    with torch.inference_mode():
        before = head(backbone(images()))
        module.merge()
        merged = head(backbone(images()))
        plain = VisionTransformer(8, 2, embed_dim=32, depth=3, num_heads=2, num_classes=0).eval()
        plain.load_state_dict(petl.plain_state_dict(backbone), strict=True)
        outside = head(plain(images()))
    assert before.argmax(1).unique().numel() > 1
    for found in (merged, outside):
        torch.testing.assert_close(found, before, atol=1e-4, rtol=1e-4)
        assert torch.equal(found.argmax(1), before.argmax(1))


def test_a_router_that_never_fades_is_not_merged() -> None:
    module = petl.attach(small_backbone(), "moe-lora", fade="never")
    for part in scheduled([module]):
        part.progress.fill_(1)
    with pytest.raises(TypeError, match=r"the router still acts \(a = 1\)"):
        module.merge()
