"""Learn a backbone by divide and conquer: modules incubated in a small network, then assembled.

Z. Ni, Y. Wang, J. Yu, H. Jiang, Y. Cao, G. Huang, "Deep Incubation: Training Large Models by
Divide-and-Conquering", ICCV 2023, arXiv 2212.04129. A network of D blocks is divided into K modules, runs of
neighbouring blocks; the first also holds what is in front of all blocks, the last norm and classifier.

- PT: the meta model, the same network with one block a module, learns end to end.
- MT: each module i is incubated by itself. Drawn at random, it takes the i-th place among the meta model's
  modules, which stay as they are, and learns from the loss of that whole, CE(H_i(x), y). Modules before it
  run without a graph; those behind it pass gradients on and get none. No module knows of another, so that K
  machines can do it at the same time: ``workers`` processes on this one.
- FT: the modules are put together, and the whole learns on for a while, end to end.

The cost is PT + the sum of all MT_i + FT; with K machines, on the critical path, PT + the largest MT_i + FT.
``divided_depths`` gives each module any depth; a ResNet is divided by its stages. ``modules=1`` is training
end to end, without a meta model. Recipe ``deit`` takes the authors' numbers for ViT-B (300, 100 and 100
epochs); for ViT-L and ViT-H they take a ``tuning_drop_path`` of 0.5 and 0.6.

Differs from the paper:
- Gradients are cut in all three phases where ``clip`` says so, module by module in the second; the authors'
  code does so only with mixed precision, in the third.
- Position embedding and class token do not decay while the first module is incubated; in the authors' code
  they do, by an oversight. ``decay_tokens`` does as they did.
- Batch norms of modules that stay as they are normalise by what they know, so that they do stay. Our choice:
  the authors published no code for ResNets.
- No colour jitter: timm leaves it out beside a random augmentation. No higher resolution in the end.
- ``small``: fewer epochs and small images, ours, as in ``end-to-end``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from clbench.pretrain import register
from clbench.pretrain.course import Course
from clbench.pretrain.materials import Materials
from clbench.pretrain.parts.accounts import Spent, in_parallel
from clbench.pretrain.parts.apart import Apart
from clbench.pretrain.parts.division import cut_to, division_of, names_of_modules
from clbench.pretrain.parts.glyphs import with_glyphs
from clbench.pretrain.parts.network import Network
from clbench.pretrain.parts.training import Stage, Training, steps_an_epoch
from clbench.pretrain.supervised import DEIT, Supervised
from clbench.runs.checkpoint import under

META, WHOLE = "meta model", "whole"


@register("incubation")
@dataclass(frozen=True)
class Incubation(Supervised):
    """Deep Incubation: a meta model, modules incubated apart from each other in it, assembled, fine-tuned."""

    recipes: ClassVar[dict[str, dict[str, bool | int | float | str]]] = {
        "deit": {
            **DEIT,
            "epochs": 100,
            "meta_epochs": 300,
            "module_epochs": 100,
            "tuning_drop_path": 0.1,
            "tuning_warm_up": 0.0,
        }
    }
    only_how: ClassVar[tuple[str, ...]] = ("workers",)

    epochs: Annotated[int, Field(ge=1)] = 10  # of fine-tuning; of all, where there is one module
    meta_epochs: Annotated[int, Field(ge=1)] = 20  # of the meta model
    module_epochs: Annotated[int, Field(ge=1)] = 10  # of each module
    divided_depths: str = ""  # blocks of each module, as 2,2,2,2; empty: evenly, or by stages
    modules: Annotated[int, Field(ge=0)] = 0  # without divided_depths: how many; 0: 4, or one a stage
    meta_depth: Annotated[int, Field(ge=1)] = 1  # blocks of a module of the meta model
    tuning_drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of the last block in fine-tuning
    tuning_warm_up: Annotated[float, Field(ge=0)] = 0.0  # epochs in which the rate rises in fine-tuning
    decay_tokens: bool = False  # whether positions and class token decay in the first module's incubation
    workers: Annotated[int, Field(ge=1)] = 1  # processes that incubate modules at the same time
    threads: Annotated[int, Field(ge=0)] = 0  # that a module is incubated with; 0: the cores, shared out

    def begin(self, materials: Materials) -> Course:
        """Divide the backbone."""
        return Incubating(self, with_glyphs(materials, self.glyphs))


class Incubating(Course):
    """The stages of the method, each a training; those of the modules in any order, or at the same time."""

    def __init__(self, options: Incubation, materials: Materials) -> None:
        """Divide the backbone, and begin nothing yet."""
        self.options, self.materials = options, materials
        self.division = division_of(
            materials.backbone, options.divided_depths, options.modules, options.meta_depth
        )
        is_divided = len(self.division) > 1
        self.modules = [f"module {place + 1}" for place in range(len(self.division))] if is_divided else []
        tuning = Stage(WHOLE, options.epochs, options.tuning_warm_up, options.tuning_drop_path)
        alone = Stage(WHOLE, options.epochs, options.warm_up, options.drop_path)
        stages = [
            *([Stage(META, options.meta_epochs, options.warm_up, 0.0)] if is_divided else []),
            *(
                Stage(each, options.module_epochs, options.warm_up, options.drop_path)
                for each in self.modules
            ),
            tuning if is_divided else alone,
        ]
        self.stages = {stage.name: stage for stage in stages}
        epochs = sum(stage.epochs for stage in stages)
        self.num_steps = epochs * steps_an_epoch(options, materials)
        self.running: dict[str, Training] = {}
        self.results: dict[str, dict[str, Tensor]] = {}  # what each finished stage has learnt
        self.spent: dict[str, Spent] = {}  # by each of them
        self.untold: list[tuple[str, float]] = []  # losses of steps that were made while others were told
        self.last = ""  # the stage of the last step
        self.apart: Apart | None = None

    def step(self, index: int) -> float:
        """Make a step of the first stage that is not finished, or of one of the modules."""
        if not self.untold:
            name = next(name for name in self.stages if name not in self.results)
            together = name in self.modules and self.options.workers > 1
            self.untold += self._apart().hear() if together else [(name, self.advance(name))]
        self.last, loss = self.untold.pop(0)
        return loss

    def advance(self, name: str) -> float:
        """Make a step of a stage, in this process."""
        training = self.begun(name)
        with threads(self.options.threads if name in self.modules else 0):
            loss = training.step()
        if training.num_done == training.num_steps:
            self.finish(name, training.learnt(), training.spent)
        return loss

    def finish(self, name: str, result: Mapping[str, Tensor], spent: Spent) -> None:
        """Keep what a stage has learnt, and let go of the rest."""
        self.results[name] = {each: tensor.detach().clone() for each, tensor in result.items()}
        self.spent[name] = spent
        if name != WHOLE:
            self.running.pop(name, None)
        if self.apart is not None and all(each in self.results for each in self.modules):
            self.close()

    def begun(self, name: str) -> Training:
        """Return the training of a stage, at its beginning where it was not begun before."""
        if name not in self.running:
            network = self.network(name)
            decays = self.options.decay_tokens and name in self.modules
            training = Training(network, self.stages[name], self.options, self.materials, decays_all=decays)
            self.running[name] = training
        return self.running[name]

    def network(self, name: str) -> Network:
        """Return the network that a stage learns, or learns in, as it is at its beginning."""
        seeds, depth = self.materials.seeds, self.options.meta_depth
        # the whole begins as if it were alone
        place = [] if name == WHOLE else [list(self.stages).index(name)]
        backbone = self.materials.fresh_backbone(seeds.derive("weights", *place))
        seed, extra = seeds.derive("classifier", *place), self.materials.num_extra
        network = Network(backbone, self.materials.num_classes, seed, num_extra=extra)
        if name == META:
            cut_to(network, self.division, self.division.small(depth))
        if name not in self.modules:
            for each in self.modules if name == WHOLE else []:
                network.take(self.results[each])
            network.let_learn(network.named())
            return network
        module = self.modules.index(name)
        cut_to(network, self.division, self.division.hybrid(module, depth))
        names = names_of_modules(network, self.division)
        fixed = [own for number, own in enumerate(names) if number != module]
        network.take({each: self.results[META][each] for own in fixed for each in own})
        network.let_learn(names[module])
        return network

    def state(self) -> dict[str, Tensor]:
        """Return what the finished stages have learnt, and the state of those that are going on."""
        tensors: dict[str, Tensor] = {}
        running = {name: training.state() for name, training in self.running.items()}
        if self.apart is not None:
            self.untold += self.apart.hear_all()
            running |= self.apart.states()
        for name, result in self.results.items():
            tensors |= {f"{name}/result/{each}": tensor for each, tensor in result.items()}
            tensors[f"{name}/spent"] = self.spent[name].to_tensor()
        for name, state in running.items():
            tensors |= {f"{name}/now/{each}": tensor for each, tensor in state.items()}
        names = list(self.stages)
        untold = [(names.index(name), loss) for name, loss in self.untold]
        return {**tensors, "untold": torch.tensor(untold, dtype=torch.float64).reshape(-1, 2)}

    def take_back(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a state that was returned before, of one process or of several."""
        names = list(self.stages)
        self.untold = [(names[int(place)], loss) for place, loss in state["untold"].tolist()]
        for name in names:
            result = under(f"{name}/result/", state)
            if result:
                self.results[name] = result
                self.spent[name] = Spent.from_tensor(state[f"{name}/spent"])
        for name in names:
            now = under(f"{name}/now/", state)
            if now:
                self.begun(name).take_back(now)

    def where(self) -> str:
        """Return the stage of the last step."""
        return self.last

    def close(self) -> None:
        """End the processes."""
        if self.apart is not None:
            self.apart.close()
            self.apart = None

    def notes(self) -> list[str]:
        """Say how the backbone is divided, and what it takes."""
        depths = ", ".join(map(str, self.division.depths))
        told = self.options.told_first(self.materials)
        if not self.modules:
            return [f"one module of {depths} blocks: end-to-end training", *told]
        small = ", ".join(map(str, self.division.small(self.options.meta_depth)))
        return [f"modules of {depths} blocks, incubated in a meta model of {small}", *told]

    def product(self, about: Mapping[str, str]) -> bytes:
        """Return the weights with their classifier, named as timm names them."""
        return self.running[WHOLE].network.to_file(about, self.options.stored)

    def examined(self) -> dict[str, Any]:
        """Return the accuracy on held-out images, before fine-tuning and after, and what it took."""
        held_out, network = self.materials.held_out, self.running[WHOLE].network
        assembled = {"assembled": held_out(self.network(WHOLE).accuracy)} if self.modules else {}
        before, after = (
            ([self.spent[name]] for name in (META, WHOLE)) if self.modules else ([], [self.spent[WHOLE]])
        )
        apart = [self.spent[name] for name in self.modules]
        return {
            **held_out(network.accuracy),
            **assembled,
            "stages": {name: self.spent[name].to_dict() for name in self.stages},
            "cost": in_parallel(before, apart, after),
        }

    def _apart(self) -> Apart:
        """Return the processes that incubate modules, with what this one knows of them."""
        if self.apart is None:
            known = {name: self.running.pop(name).state() for name in self.modules if name in self.running}
            self.apart = Apart(
                self.materials,
                known={META: self.results[META]},
                waiting={name: known.get(name, {}) for name in self.modules if name not in self.results},
                num_processes=self.options.workers,
                num_threads=self.options.threads,
                finish=self.finish,
            )
        return self.apart


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch compute with so many threads for a while; 0: as many as it does."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
