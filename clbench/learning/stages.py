"""Train a network in stages, from the head down: hierarchical fine-tuning.

S. Jie, Z.-H. Deng, Z. Li, "Alleviating Representational Shift for Continual Fine-tuning" (ConFiT), CVPR
Workshops 2022, arXiv 2204.10535. Of E epochs the first fifth trains the head alone, those up to a half the
scales and shifts of the norms, too, and the rest everything, so that the other layers move little. The head
is alone in the first epoch, also of fewer than five.
"""

from __future__ import annotations

from clbench.petl.attached import Attached
from clbench.petl.parts.norms import norm_parameters


def open_stage(module: Attached, epoch: int, num_epochs: int) -> None:
    """Choose what of the module learns in an epoch (0-based): nothing, the backbone's norms, or all of it."""
    first_of_norms, first_of_all = max(1, num_epochs // 5), max(1, num_epochs // 2)
    backbone = module.backbone
    norms = {id(backbone.get_parameter(name)) for name in norm_parameters(backbone)}
    for parameter in module.parameters():
        is_norm = id(parameter) in norms
        parameter.requires_grad_(epoch >= first_of_all or (is_norm and epoch >= first_of_norms))
