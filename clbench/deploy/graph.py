"""Make one graph of a learner's prediction: a module that needs neither the strategy nor its memory.

The learner itself stays as it is. Its modules are folded into the backbone where they merge, and what a
closed form worked out is a constant of the graph.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, fx, nn

from clbench.deploy.asked import Asked
from clbench.deploy.asking import allowed, check_task, restricted
from clbench.deploy.learnt import Learnt
from clbench.deploy.quietly import quietly
from clbench.errors import UserError
from clbench.petl.folding import fold
from clbench.quant.kernels.library import portable
from clbench.runs.modes import evaluation_mode

EXAMPLES = 2  # images that it is traced with: of one, torch would take their number for a constant


class GraphError(UserError, TypeError):
    """A learner that cannot be written as one graph, or images that it does not take."""


class Graph(nn.Module):
    """Images (B, 3, S, S), normalised, to scores (B, C): a prediction and the tensors that it needs."""

    def __init__(self, graph: fx.GraphModule, image_size: int) -> None:
        """Take the traced operations."""
        super().__init__()
        self.traced = graph  # not called graph: that is what torch calls the operations of such a module
        self.image_size = image_size

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores."""
        size = self.image_size
        if images.dim() != 4 or images.shape[1:] != (3, size, size):
            raise GraphError(
                f"images of shape {tuple(images.shape)}; it takes normalised ones, (B, 3, {size}, {size})"
            )
        scores: Tensor = self.traced(images)
        return scores

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Graph:
        """Let tensors that are made on the way be made where the others are now."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch declares no types for it
        device = next(self.parameters()).device
        for graph in _graphs(self):
            for node in graph.graph.nodes:
                if "device" in node.kwargs:
                    node.kwargs = {**node.kwargs, "device": device}
            graph.recompile()
        return self


@torch.no_grad()
def graph_of(learnt: Learnt, task: int | None = None) -> Graph:
    """Return the prediction of a learner as a module; GraphError in one line if it is no single graph."""
    check_task(learnt, task)
    evaluation_mode(learnt.strategy)
    # The backbone comes first: what is copied after it refers to the copy.
    backbone, strategy = copy.deepcopy((learnt.backbone, learnt.strategy))
    among = None if task is None else allowed(learnt.history, task).to(backbone.device)
    asked = Asked(
        strategy,
        backbone,
        stored_size=(learnt.history.height, learnt.history.width),
        task=task,
        is_half=learnt.spec.run.precision == "bf16",
        restricted=lambda scores: restricted(scores, among, are_probabilities=strategy.gives_probabilities),
    ).eval()
    size = backbone.preprocessing.image_size
    images = torch.zeros(EXAMPLES, 3, size, size, device=backbone.device)
    try:
        with portable():  # torch's operators alone
            fold(backbone, lambda: asked(images))
            asked(images)  # what is worked out when first asked for, such as a memory's means, is known now
            traced = _traced(asked, images)
    except Exception as error:  # a strategy may be anybody's, and so may its mistakes
        raise GraphError(
            f"strategy {learnt.spec.strategy.name} is no single graph: {reason(error)}"
        ) from error
    return Graph(_plain(traced), size).eval()


def reason(error: Exception) -> str:
    """Return why torch traced nothing: the first line of what it said, or what that means."""
    text = str(error.__cause__ or error).strip()  # torch puts long advice around it
    if "specialized it to be a constant" in text or "Constraints violated" in text:
        return "its predict() depends on the number of images (write x.shape[0] where it says len(x))"
    return text.splitlines()[0] if text else type(error).__name__


def _traced(asked: Asked, images: Tensor) -> fx.GraphModule:
    batch = torch.export.Dim("batch", min=1)
    with quietly():  # torch prints the whole graph that it cannot make
        program = torch.export.export(asked, (images,), dynamic_shapes=({0: batch},), strict=False)
    return program.module()


def _plain(traced: fx.GraphModule) -> fx.GraphModule:
    """Return the operations with the tensors that they use, as parameters and buffers, and nothing else."""
    for graph in _graphs(traced):
        for node in [*graph.graph.nodes]:
            is_check = node.target is torch.ops.aten._assert_tensor_metadata.default
            if is_check or node.op == "call_module":  # of the device that it was traced on; of shapes
                graph.graph.erase_node(node)
        graph.recompile()
    used = fx.Graph()
    (scores,) = cast("tuple[fx.Node]", used.graph_copy(traced.graph, {}))
    used.output(scores)
    used.eliminate_dead_code()  # such as reading what only learning needs
    return fx.GraphModule(traced, used, "Graph").requires_grad_(False)


def _graphs(module: nn.Module) -> list[fx.GraphModule]:
    """Return the graphs in a module, those inside others among them."""
    return [each for each in module.modules() if isinstance(each, fx.GraphModule)]
