"""Search a NOAH architecture under a parameter limit, on ten classes of CIFAR-100, and train it anew.

    python benchmarks/noah.py --data-dir DIR --weights vit_tiny_patch16_224.safetensors --max-parameters 60000

The super-net is trained, the search scores architectures on the images held out for validation, and the best
one is trained from the start, beside the largest architecture of one size under the same limit. The test
images are looked at for the printed accuracies alone.
"""

from __future__ import annotations

import torch
from cifar100 import questions
from petl_modules import module_of, ten_classes, trained

from clbench import backbones
from clbench.backbones import BackboneOptions
from clbench.data.batches import Batcher
from clbench.data.inputs import Inputs
from clbench.petl.attached import Attached
from clbench.petl.noah import NOAH
from clbench.petl.noah_search import search
from clbench.petl.parts.noah_space import Space
from clbench.seeds import Seeds


def main() -> None:
    """Train, search, train again, and print what came of it."""
    learning = {"max_parameters": 60_000, "image_size": 64, "epochs": 8, "train_per_class": 100}
    searching = {"generations": 5, "population": 20}
    parser = questions(__doc__, network="vit_tiny_patch16_224", **learning, **searching)
    options = parser.parse_args()
    seeds = Seeds(0)
    stream = ten_classes(options.data_dir, options.train_per_class, seeds)
    made = BackboneOptions(weights=options.weights, image_size=options.image_size)
    backbone = backbones.create("vit_tiny_patch16_224", made)
    batcher = Batcher(stream.tasks[0].train.images, backbone.preprocessing, "none", torch.device("cpu"))
    accuracy, strategy = trained(NOAH(), backbone, stream, batcher, seeds, options.epochs)
    module, held_out = module_of(strategy), stream.tasks[0].validation
    print(f"super-net: {module.num_parameters:,} parameters, test accuracy {100 * accuracy:.1f} %")
    images = Inputs(batcher=batcher, rows=held_out.rows)
    labels = torch.from_numpy(held_out.labels)

    @torch.inference_mode()
    def score(_: Attached) -> float:
        return float((strategy.predict(images).argmax(1) == labels).float().mean())

    best = search(
        module,
        score,
        options.max_parameters,
        seeds.generator("search"),
        generations=options.generations,
        population=options.population,
        top=options.population // 5,
        crossover=options.population // 2,
        mutation=options.population // 2,
    )
    module.detach()
    uniform = str(Space(len(backbone.blocks), backbone.width).largest(options.max_parameters))
    for what, architecture in (("found", best), ("largest of one size", uniform)):
        accuracy, strategy = trained(
            NOAH(architecture=architecture), backbone, stream, batcher, seeds, options.epochs
        )
        module = module_of(strategy)
        print(f"{what}, {architecture}: {module.num_parameters:,} parameters,"
              f" test accuracy {100 * accuracy:.1f} %")  # fmt: skip
        module.detach()


if __name__ == "__main__":
    main()
