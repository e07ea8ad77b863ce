"""Write the pages about names: the methods of each kind, and the metrics, from what ``clbench show`` says."""

from __future__ import annotations

from collections.abc import Iterator

from families import in_families
from prose import advice, choices, code, escaped, markdown, prose, table

from clbench.cli.arguments import NAMED
from clbench.cli.describing import Description, Note, describe
from clbench.cli.listing import HINTS, REGISTRIES
from clbench.evaluate import METRICS, Metric

TITLES = {
    "strategies": "Strategies",
    "petl": "Modules",
    "streams": "Streams",
    "backbones": "Backbones",
    "quant": "Quantisers",
    "compress": "Token compressors",
    "pretrain": "Pre-training",
}
USES = {"pretrain": "clbench pretrain NAME --backbone vit-micro --stream split-digits --out FILE.safetensors"}
MANY = 8  # names of a note, from which on they are folded away


def method_pages() -> Iterator[tuple[str, str]]:
    """Give the address and the text of a page about each kind, followed by one about each of its names."""
    for kind, title in TITLES.items():
        found = {name: describe(name, kind)[0] for name in REGISTRIES[kind].names()}
        yield f"methods/{kind}/index.md", _index(kind, title, found)
        for name, description in found.items():
            yield f"methods/{kind}/{name}.md", _method(description)


def metric_pages() -> Iterator[tuple[str, str]]:
    """Give the address and the text of the page about all metrics, followed by one about each family."""
    families: dict[str, list[Metric]] = {}
    for metric in METRICS.values():
        families.setdefault(metric.family, []).append(metric)
    yield "metrics/index.md", _metrics_index(families)
    for family, members in families.items():
        sections = [f"# {family.capitalize()}", f"{prose(members[0].family_summary)}."]
        sections += [_metric(describe(metric.name, "metrics")[0]) for metric in members]
        yield f"metrics/{family}.md", "\n\n".join(sections)


def _index(kind: str, title: str, found: dict[str, Description]) -> str:
    parts = [f"# {title}", f"{advice(HINTS[kind])}."]
    families = in_families(kind, found)
    for family, names in families.items():
        rows = ([f"[{code(name)}]({name}.md)", prose(found[name].summary)] for name in names)
        heading = [f"## {escaped(family)}"] if len(families) > 1 else []
        parts += [*heading, table(["name", "what it does"], rows)]
    return "\n\n".join(parts)


def _method(about: Description) -> str:
    use = USES.get(about.kind, f"clbench run --{about.kind} NAME").replace("NAME", about.name)
    shell = f"{use}\nclbench show {about.name}"
    first, *others = about.paragraphs
    # The summary is the docstring's first sentence; where more follows in its paragraph, it stays there.
    parts = [f"# {about.name}", f"{prose(first)}\n{{ .lead }}", f"```sh\n{shell}\n```", markdown(others)]
    if about.facts:
        parts += [
            "## Inside",
            table(["", ""], ([f"**{name}**", escaped(value)] for name, value in about.facts)),
        ]
    if about.options:
        parts += ["## Options", _options(about)]
    if about.notes:
        parts += ["## In use", *_notes(about.notes)]
    return "\n\n".join(part for part in parts if part)


def _options(about: Description) -> str:
    in_file = f", or under `[{about.kind}]` in a file given with `--config`" if about.kind in NAMED else ""
    said = f"Set by `--set {about.kind}.NAME=VALUE`{in_file}."
    rows = (
        [code(each.name), choices(each.type), code(each.default), prose(each.comment)]
        for each in about.options
    )
    written = table(["name", "values", "default", "what it is"], rows)
    return f'{said}\n\n<div class="options" markdown>\n\n{written}\n\n</div>'


def _notes(notes: tuple[Note, ...]) -> Iterator[str]:
    """Write short notes as a list, and those with many names behind a line that opens."""
    items: list[str] = []
    for note in notes:
        names = ", ".join(map(code, note.names))
        if len(note.names) > MANY:
            yield "\n".join(items)
            items = []
            yield f'??? note "{_capital(note.words)}"\n\n    {names}'
        elif note.words.startswith(" "):  # goes on where the line before it ended
            items[-1] += f"; {advice(note.words)}"
        else:
            items.append(f"- {advice(_capital(note.words))}{': ' if names else ''}{names}")
    yield "\n".join(items)


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _metrics_index(families: dict[str, list[Metric]]) -> str:
    parts = [
        "# Metrics",
        "Each is a pure function of the predictions, computed at the end of every run and kept in"
        " `metrics.json`. What is not known is NaN, never 0. R[i,j] is the accuracy on task j after task i;"
        " tasks count from 1 to T. [Cross-checks](../cross-checks.md) tells where other libraries mean"
        " something else by the same word.",
        "Which class has the highest score decides every accuracy, whatever the scores are. Calibration and"
        " the bias among shares are known only of strategies whose scores are probabilities, as"
        " `clbench show NAME` says. Of others they are NaN, and no table, rank or picture counts them in.",
    ]
    for family, members in families.items():
        rows = ([f"[{code(each.name)}]({family}.md#{each.name})", prose(each.summary)] for each in members)
        heading = f"## [{family.capitalize()}]({family}.md)"
        parts += [heading, f"{prose(members[0].family_summary)}.", table(["name", "what it tells"], rows)]
    return "\n\n".join(parts)


def _metric(about: Description) -> str:
    facts = dict(about.facts)
    formula = facts.pop("formula")
    rows = ([f"**{_capital(name)}**", prose(value)] for name, value in facts.items())
    return "\n\n".join(
        [
            f"## {about.name} {{ #{about.name} }}",
            markdown(about.paragraphs),
            f"```text\n{formula}\n```",
            table(["", ""], rows),
        ]
    )
