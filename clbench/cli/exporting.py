"""Write a learner into a bundle or a file of ONNX, and say what is in it and what is not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType

from clbench.cli.outcome import lines, next_steps
from clbench.deploy.bundle import ABOUT, TENSORS, About
from clbench.deploy.learner import Learner
from clbench.deploy.onnx_file import Where
from clbench.kinds import fills
from clbench.outside.reading import read_json
from clbench.outside.visible import shell_word
from clbench.records.spec import SECTIONS, USED, RunSpec
from clbench.registry import is_address
from clbench.report.units import quantity


@dataclass(frozen=True)
class Wanted:
    """What of a learner is to be in its bundle, see ``Learner.save``."""

    without_backbone: bool = False
    with_exemplars: bool = False
    predict_only: bool = False


def export_bundle(learner: Learner, out: Path, wanted: Wanted) -> RenderableType:
    """Write the bundle; return what was written, what is not in it, and what to type next."""
    folder = learner.save(out, **vars(wanted))
    about = About.model_validate(read_json(folder / ABOUT))
    told = [
        f"written: {folder}/",
        f"  {ABOUT:<20} {_size(folder / ABOUT)}  {len(about.class_names)} class names, the run's options",
        f"  {TENSORS:<20} {_size(folder / TENSORS)}  {_tensors(learner, about)}",
        *_left_out(learner, about, is_to_predict=wanted.predict_only),
        *_paths(about),
    ]
    own = _own_files(learner.spec)
    again = "".join(f" --{kind} {shell_word(name)}" for kind, name in own.items())
    if own:
        kinds = " and ".join(f"{kind} {name}" for kind, name in own.items())
        told.append(f"not in it: the code of {kinds}; whoever loads it names a file again, as below")
    word = shell_word(str(folder))
    commands = {f"clbench predict {word} IMAGE...{again}": "which class pictures show, on any machine"}
    if not (about.left_out or about.is_packed or about.variant) and learner.strategy.resumable:
        commands[f"clbench learn {word} --stream folder:PATH{again}"] = "another task behind those"
    return Group(lines([*told, *next_steps(commands)]))


def export_onnx(learner: Learner, out: Path, preprocessing: Where, task: int | None) -> RenderableType:
    """Write the graph; return what was written, and how far it is from the learner."""
    report = learner.export_onnx(out, preprocessing=preprocessing, task=task)
    size = quantity(report.num_bytes, unit="B")
    num = report.num_compared
    taken = "pixels (B, H, W, 3), uint8" if preprocessing == "inside" else "images (B, 3, S, S), normalised"
    told = [
        f"written: {out}  {size}, opset {report.opset}, preprocessing {preprocessing}: it takes {taken}",
        f"checked: of {num} generated pictures onnxruntime's scores differ from the learner's by at most"
        f" {report.max_difference:.1e} ({report.allowed_difference:.1e} is allowed), and"
        f" {report.num_same_class} of {num} have the same class",
    ]
    return Group(lines(told))


def _size(file: Path) -> str:
    return f"{quantity(file.stat().st_size, unit='B'):>8}"


def _tensors(learner: Learner, about: About) -> str:
    """Return what the file of tensors holds, in words."""
    num = _num_exemplars(learner)
    form = learner.spec.deployed or learner.spec.quant
    in_form = f" in {form.name}" if form else ""
    held = [f"the backbone's weights{in_form}"] if about.backbone.is_included else []
    held.append("what was learnt")
    if num and not about.left_out:
        held.append(f"{_counted(num)} that whoever has it can see")
    return ", ".join(held)


def _left_out(learner: Learner, about: About, *, is_to_predict: bool) -> Iterator[str]:
    """Yield a line for what is not in it, and what that means."""
    if about.left_out and not about.variant:
        num = _num_exemplars(learner)
        what = _counted(num) if num else "exemplars (training pictures)"
        advice = "; --exemplars takes them along" if num else ""
        if is_to_predict:
            parts = dict.fromkeys(name.partition("/")[0] for name in about.left_out)
            what, advice = f"what only learning on asks for, in {', '.join(parts)}", ""
        yield f"left out: {what}: it predicts, but cannot learn on{advice}"
    if not about.backbone.is_included:
        yield (
            f"left out: the weights of {about.backbone.name}, SHA-256 {about.backbone.digest[:12]}...:"
            " where it is loaded they have to be found, or named with --weights"
        )


def _num_exemplars(learner: Learner) -> int:
    return sum(fills(learner.strategy.parts().values()))


def _counted(num: int) -> str:
    return "1 exemplar (a training picture)" if num == 1 else f"{num:,} exemplars (training pictures)"


def _paths(about: About) -> Iterator[str]:
    """Yield a line that names the options which tell where something lies on this machine."""
    sections = [
        *((name, table) for name, table in about.spec.items() if isinstance(table, dict)),
        *(("stream", chapter["stream"]) for chapter in about.history["chapters"]),
    ]
    found = {
        f"{section}.{option}={value}": None
        for section, table in sections
        for option, value in table.items()
        if isinstance(value, str) and option != "name" and (option == "path" or "/" in value)
    }
    told = [each for each in found if not each.endswith("=")]
    if told:
        yield f"mind: {ABOUT} names paths of this machine: {', '.join(told)}"


def _own_files(spec: RunSpec) -> dict[str, str]:
    """Return the components that are in somebody's files, by kind."""
    forms = {kind: getattr(spec.deployed or spec, kind) or getattr(spec, kind) for kind in USED}
    parts = {**{kind: getattr(spec, kind) for kind in SECTIONS[1:-1]}, **forms}
    return {kind: part.name for kind, part in parts.items() if part is not None and is_address(part.name)}
