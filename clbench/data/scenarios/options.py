"""List the options of how a collection becomes a stream: which images come when, and what is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field


@dataclass
class ScenarioOptions:
    """What every stream lets a user choose, whatever its images are."""

    default_augment: ClassVar[str] = "rrc-flip"  # the training transform where none is chosen

    tasks: str = (
        "10"  # "10" equal tasks, the field's "B0-Inc10", "B50-Inc10" (B: classes in the first task), "2,4,1"
        # classes a task, "stream" (the collection's own); with domains: how many to make
    )
    order: str = (
        "natural"  # class order: natural, random, a seed such as 1993, lae-1, lae-2, lae-3, classes by number
        # or name such as "2,0,1", or file:PATH with one a line
    )
    validation_rate: Annotated[float, Field(ge=0, lt=1)] = (
        0.1  # share of each class's training images held out
    )
    train_per_class: Annotated[int, Field(ge=0)] = (
        0  # at most so many training images a class (of each domain); 0: all
    )
    test_per_class: Annotated[int, Field(ge=0)] = (
        0  # at most so many test images a class (of each domain); 0: all
    )
    augment: str = (
        ""  # training transform: none, crop, crop-flip, rrc, rrc-flip; empty: what suits the stream
    )
    scenario: Literal["class", "task", "domain"] = (
        "class"  # class; task: a test image tells its task; domain: a domain a task, with the same classes
    )
    domains: str = (
        ""  # made of the collection: rotations, permutations, corruptions; empty: all of its own domains
    )
    online: Annotated[int, Field(ge=0)] = (
        0  # images a micro-batch, each seen once; 0: offline, a task's images may be revisited
    )
    arrangement: Literal["disjoint", "blurry", "si-blurry", "gaussian", "repetition"] = (
        "disjoint"  # of the classes over time; blurry, si-blurry and gaussian have no task boundaries
    )
    disjoint_rate: Annotated[float, Field(ge=0, le=1)] = (
        0.5  # blurry, si-blurry: share of the classes that come in one task only
    )
    blur_rate: Annotated[float, Field(ge=0, le=1)] = (
        0.1  # blurry, si-blurry: share of the other classes' images that come in other tasks
    )
    gaussian_width: Annotated[float, Field(gt=0)] = (
        1.0  # gaussian: standard deviation of a class in time, where the peaks of two classes lie 1 apart
    )
    repeat_rate: Annotated[float, Field(ge=0, le=1)] = (
        0.2  # repetition: probability that a class comes back in a later task
    )
    imbalance: Annotated[float, Field(gt=0, le=1)] = (
        1.0  # training images of the rarest class, as a share of the most frequent one's; 1: all there are
    )
    long_tail: Literal["shuffled", "ordered"] = (
        "shuffled"  # imbalance: classes become rarer in an order of their own, or in the class order
    )
    shots: Annotated[int, Field(ge=0)] = (
        0  # at most so many training images a class in every task after the first; 0: all
    )
    label_noise: Annotated[float, Field(ge=0, lt=1)] = (
        0.0  # share of each class's training labels replaced by another class of the task
    )
    noise: Literal["symmetric", "pair"] = (
        "symmetric"  # label_noise: any other class of the task, or always the next one
    )
