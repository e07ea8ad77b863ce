"""Pre-train vit-micro on labelled 32-pixel images and write its fp16 weights.

python benchmarks/pretrain_vit_micro.py mini-imagenet-32px.npz clbench/backbones/weights/vit-micro.safetensors

The npz holds ``train_x`` (N, 32, 32, 3) uint8, ``train_y``, ``test_x``, ``test_y``. Supervised cross-entropy
with random resized crops, flips, mixup (alpha 0.2) and label smoothing 0.1; AdamW, warm-up over the first
tenth, then a cosine to zero.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from clbench.backbones.micro import IMAGE_SIZE, vit_micro
from clbench.data.transforms import random_resized_boxes, resample

LEARNING_RATE, WEIGHT_DECAY, BATCH_SIZE, SEED = 1e-3, 0.05, 128, 0


def normalise(images: Tensor) -> Tensor:
    """Map [0, 255] to [-1, 1], vit-micro's input range."""
    return images / 127.5 - 1


def accuracy(model: torch.nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return top-1 accuracy in [0, 1]."""
    model.eval()
    with torch.inference_mode():
        hits = sum(
            int((model(normalise(x.float())).argmax(1) == y).sum())
            for x, y in zip(images.split(500), labels.split(500), strict=True)
        )
    model.train()
    return hits / len(labels)


def main() -> None:
    """Train, print one line an epoch, write the weights without the classifier."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--epochs", type=int, default=40)
    options = parser.parse_args()
    with np.load(options.data) as data:
        part = {key: torch.from_numpy(data[key]) for key in ("train_x", "train_y", "test_x", "test_y")}
    images, test_images = (part[key].permute(0, 3, 1, 2).contiguous() for key in ("train_x", "test_x"))
    labels, test_labels = (part[key].long() for key in ("train_y", "test_y"))

    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    model = vit_micro(num_classes=int(labels.max()) + 1).train()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, fused=True)
    steps_an_epoch = len(images) // BATCH_SIZE
    num_steps = options.epochs * steps_an_epoch
    warm_up = num_steps // 10
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(
            (step + 1) / warm_up,
            0.5 * (1 + math.cos(math.pi * max(0, step - warm_up) / (num_steps - warm_up))),
        ),
    )
    mix = torch.distributions.Beta(0.2, 0.2)
    for epoch in range(options.epochs):
        start, total = time.perf_counter(), 0.0
        order = torch.randperm(len(images), generator=generator)[: steps_an_epoch * BATCH_SIZE]
        for index in order.split(BATCH_SIZE):
            boxes = random_resized_boxes(len(index), IMAGE_SIZE, IMAGE_SIZE, generator, scale=(0.25, 1.0))
            batch = normalise(resample(images[index], boxes, size=IMAGE_SIZE, interpolation="bilinear"))
            share = mix.sample()
            mixed = share * batch + (1 - share) * batch.flip(0)
            logits = model(mixed)
            loss = share * F.cross_entropy(logits, labels[index], label_smoothing=0.1)
            loss = loss + (1 - share) * F.cross_entropy(logits, labels[index].flip(0), label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        score = accuracy(model, test_images, test_labels)
        seconds = time.perf_counter() - start
        print(
            f"epoch {epoch + 1:3d}  loss {total / steps_an_epoch:.3f}  test {score:.4f}  {seconds:.0f} s",
            flush=True,
        )
    state = {k: v.half().contiguous() for k, v in model.state_dict().items() if not k.startswith("head.")}
    save_file(state, options.weights)


if __name__ == "__main__":
    main()
