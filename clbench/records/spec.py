"""Describe one run completely: which components, and the value of every one of their options.

A ``RunSpec`` is data: it round-trips through TOML, is printed by ``--dry-run``, is stored in the record, and
its hash is the run's id. What is not used is not in it, so that ids from before there was such a thing stay.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from clbench.options import SpecError, Value
from clbench.outside.reading import first_line, parse_toml
from clbench.records.sizes import canonical

SECTIONS = ("stream", "strategy", "backbone", "petl", "run")
USED = ("quant", "compress")  # sections that are there where they are used
MEMORY = "memory_size"  # the option of a strategy that says how many exemplars it may keep


class Part(BaseModel):
    """One component: its registered name and its options."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    options: dict[str, Value] = {}


class RunOptions(BaseModel):
    """What belongs to the run and to no component."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: Annotated[int, Field(ge=0)] = 0
    device: str = "cpu"  # cpu, cuda, cuda:1, mps
    precision: Literal["fp32", "bf16"] = "fp32"
    eval_batch_size: Annotated[int, Field(ge=1)] = 256  # images a forward pass when evaluating
    checkpoint_every: Annotated[int, Field(ge=0)] = (
        0  # steps between checkpoints inside an epoch; 0: none inside
    )
    eval_every: Annotated[int, Field(ge=0)] = 0  # steps between looks at the learner; 0: after tasks only
    eval_images: Annotated[int, Field(ge=1)] = 100  # test images of each task in such a look
    eval_ahead: bool = False  # evaluate every task also before it is learnt, for forward transfer
    probe_images: Annotated[int, Field(ge=0)] = 0  # of each task, whose representations are kept; 0: none
    prequential: bool = True  # eval_every > 0: predict each training batch before it is learnt, too
    step_cost: Annotated[int, Field(ge=1)] = (
        1  # micro-batches that arrive while one is learnt; all are predicted, only every so many is learnt
    )
    exact: bool = False  # compute everything each time: keep no features
    variants: Literal["each", "end"] = "each"  # whether a variant predicts after each task, or the last alone
    calibration: Literal["current", "first", "memory"] = (
        "current"  # whose training images a variant is calibrated on: the newest task's, the first one's, or
        # those that the strategy's memory holds
    )
    metrics: str = ""  # others than clbench's own, to be computed too: names or file.py:function, by commas
    # bytes that the strategy may keep between tasks, as in 300kB or 2MB; empty: any number
    budget: Annotated[str, AfterValidator(canonical)] = ""
    scored_on: Literal["test", "validation"] = (
        "test"  # which images are predicted; with validation no test image is read
    )


class Parent(BaseModel):
    """The learner that a run learns on from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str  # of the run that it comes from
    group: str  # what that run shares with those that differ in the seed alone
    learner: str  # SHA-256 of its state
    tasks: Annotated[int, Field(ge=1)]  # that it had learnt


class Variant(BaseModel):
    """A form in which the learner also predicts, as it would be deployed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str  # what was asked for, as in adalog:bits=4
    quant: Part | None = None  # what quantises the backbone
    compress: Part | None = None  # what compresses its tokens, in the place of what did while it learnt
    own: str = ""  # a variant of the strategy's own
    refit: bool = False  # whether what was learnt in closed form is learnt anew from the variant's features

    def to_dict(self) -> dict[str, Any]:
        """Return what is used of it, as it stands in the TOML file."""
        parts = {kind: part for kind in USED if (part := getattr(self, kind)) is not None}
        tables = {kind: {"name": part.name, **part.options} for kind, part in parts.items()}
        own = {"own": self.own} if self.own else {}
        return {"name": self.name, **tables, **own, **({"refit": True} if self.refit else {})}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Variant:
        """Read what ``to_dict`` returned."""
        tables = {kind: dict(table[kind]) for kind in USED if table.get(kind)}
        parts = {kind: Part(name=own.pop("name"), options=own) for kind, own in tables.items()}
        return cls(**{**table, **parts})


class RunSpec(BaseModel):
    """A run: four components and the run's own options, and what else it makes use of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stream: Part
    strategy: Part
    backbone: Part
    petl: Part
    run: RunOptions = RunOptions()
    quant: Part | None = None  # what makes the frozen backbone compute with few bits, before the first task
    compress: Part | None = None  # what lets it go on with fewer tokens, block by block
    variants: tuple[Variant, ...] = ()  # in which forms the learner predicts, too
    deployed: Variant | None = None  # which of them this is about; None: the learner itself
    parent: Parent | None = None  # whose tasks come before those of the stream

    @property
    def id(self) -> str:
        """Sixteen hexadecimal digits that only an equal spec shares.

        Under a budget the size of a memory follows from the rest, and does not count.
        """
        return _digest(self._without_fitted(self.to_dict()))

    @property
    def group(self) -> str:
        """Sixteen hexadecimal digits that specs share if they differ in the seed alone."""
        return _digest(self.without_seed())

    @property
    def encoder(self) -> str:
        """The backbone's name and in which forms it is: ``vit-micro in rtn (4 bits), tome (removed=8)``."""
        parts = {kind: part for kind in USED if (part := getattr(self, kind)) is not None}
        forms = in_forms({kind: (part.name, part.options) for kind, part in parts.items()})
        return self.backbone.name + forms

    @property
    def is_low_bit(self) -> bool:
        """Whether anything is computed with few bits: what is learnt on, or a form in which it predicts."""
        forms = [*self.variants, *([self.deployed] if self.deployed else [])]
        return self.quant is not None or any(form.quant is not None for form in forms)

    def without_seed(self) -> dict[str, dict[str, Value]]:
        """Return the sections without the seed, and without what does not change what is learnt.

        That is further metrics and variants. Of a parent it is not said which it was, but which group it is
        of; of what a variant predicted, which variant that is.
        """
        sections = self.sections()
        for name in ("seed", "metrics", "variants", "calibration"):
            sections["run"].pop(name, None)
        first: dict[str, dict[str, Value]] = {}  # it tells most where runs are told apart
        if self.deployed:
            run = self.run
            first["variant"] = {"variant": self.deployed.name, "calibration": run.calibration}
        if self.parent:
            first["parent"] = {"after": f"{self.parent.tasks}-tasks-of-{self.parent.group[:8]}"}
        return self._without_fitted({**first, **sections})

    def _without_fitted(self, tables: dict[str, Any]) -> dict[str, Any]:
        """Leave out what was chosen so that a budget is kept."""
        if not self.run.budget:
            return tables
        strategy = {name: value for name, value in tables["strategy"].items() if name != MEMORY}
        return {**tables, "strategy": strategy}

    def to_dict(self) -> dict[str, Any]:
        """Return a table a section, and a list of them for the variants, as they stand in the TOML file."""
        tables: dict[str, Any] = {**self.sections()}
        if self.variants:
            tables["variant"] = [variant.to_dict() for variant in self.variants]
        return tables if self.parent is None else {**tables, "parent": self.parent.model_dump()}

    def sections(self) -> dict[str, dict[str, Value]]:
        """Return the table of each component, and of the run's own options."""
        used = [kind for kind in USED if getattr(self, kind) is not None]
        parts = {kind: getattr(self, kind) for kind in (*SECTIONS[:-1], *used)}
        sections = {kind: {"name": part.name, **part.options} for kind, part in parts.items()}
        run = self.run.model_dump()
        # as if there were no such options where they are not used
        later = ("metrics", "variants", "calibration", "scored_on", "budget")
        unused = {name for name in later if run[name] == _default(name)}
        return {**sections, "run": {name: value for name, value in run.items() if name not in unused}}

    def to_toml(self) -> str:
        """Return the spec as TOML that ``--config`` accepts."""
        return tomli_w.dumps(self.to_dict())

    @classmethod
    def from_toml(cls, text: str) -> RunSpec:
        """Read what ``to_toml`` wrote; SpecError, in one line, says why a text is no spec."""
        tables = read_toml(text)
        try:
            return cls.from_dict(tables)
        except SpecError:
            raise
        except Exception as error:  # a table where a number should be, and whatever else may stand there
            raise SpecError(f"no spec of a run: {first_line(error)}") from error

    @classmethod
    def from_dict(cls, tables: Mapping[str, Any]) -> RunSpec:
        """Read what ``to_dict`` returned."""
        variants = tables.get("variant", [])
        sections = {name: dict(table) for name, table in tables.items() if name != "variant"}
        missing = [name for name in SECTIONS if "name" not in sections.get(name, {}) and name != "run"]
        if missing:
            raise SpecError(f"it names no {', '.join(missing)}")
        run, parent = sections.pop("run", {}), sections.pop("parent", None)
        parts: dict[str, Any] = {
            kind: Part(name=table.pop("name"), options=table) for kind, table in sections.items()
        }
        return cls(
            **parts,
            run=RunOptions(**run),
            variants=tuple(map(Variant.from_dict, variants)),
            parent=Parent(**parent) if parent else None,
        )


def in_forms(used: Mapping[str, tuple[str, Mapping[str, Any]]]) -> str:
    """Write what a backbone is quantised and compressed by, behind its name; nothing where it is neither."""
    words = []
    for kind, (name, options) in used.items():
        chosen = [(option, value) for option, value in options.items() if value not in ("", False)]
        if kind == "quant":
            told = f" ({options['bits']} bits)" if options.get("bits") else ""
        else:  # the first option is the degree
            told = f" ({chosen[0][0]}={chosen[0][1]})" if chosen else ""
        words.append(name + told)
    return " in " + ", ".join(words) if words else ""


def read_toml(text: str) -> dict[str, Any]:
    """Return what a TOML text holds; SpecError says where it is none."""
    try:
        return parse_toml(text)
    except ValueError as error:  # also numbers of too many digits
        raise SpecError(f"not valid TOML: {error}") from error


def _digest(tables: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(tables, sort_keys=True).encode()).hexdigest()[:16]


def _default(option: str) -> Value:
    default: Value = RunOptions.model_fields[option].default
    return default
