"""Write the file that ``clbench new`` gives: a working example under the name that a user chose."""

from __future__ import annotations

import importlib.util
import keyword
import re
from pathlib import Path

from clbench.cli.listing import OWN_KINDS, REGISTRIES
from clbench.errors import UserError
from clbench.evaluate import names
from clbench.files import write_text
from clbench.registry import did_you_mean

TEMPLATES = Path(__file__).parent / "templates"
NAME = re.compile(r"[a-z][a-z0-9_]*")
RUN_WITH = {
    "strategy": "clbench run --strategy {address}",
    "stream": "clbench run --stream {address}",
    "petl": "clbench run --strategy naive --petl {address}",
    "quant": "clbench run --quant {address}",
    "compress": "clbench run --compress {address}",
    "metric": "clbench run --set run.metrics={address}",
}


class NewFileError(UserError, ValueError):
    """A file that cannot be begun."""


def begin(kind: str, name: str) -> str:
    """Write ``name.py`` into the folder where one is, and return what to do with it; nothing is overwritten.

    ``kind`` is strategy, stream, petl, quant, compress or metric. NewFileError says why a name will not do.
    """
    if kind not in OWN_KINDS:
        allowed = ", ".join(OWN_KINDS)
        raise NewFileError(f"no kind called {kind!r}{did_you_mean(kind, OWN_KINDS)} (allowed: {allowed})")
    file = Path(f"{name}.py")
    _refuse_name(kind, name, file)
    title = "".join(word.capitalize() for word in name.split("_"))
    registered = re.sub("_+", "-", name.strip("_"))
    text = (TEMPLATES / f"{kind}.py").read_text(encoding="utf-8")
    text = text.replace('"example"', f'"{registered}"').replace("class Example(", f"class {title}(")
    write_text(file, text.replace("def example(", f"def {name}("))
    address = f"{file}:{name if kind == 'metric' else title}"
    commands = (f"clbench check {address}", RUN_WITH[kind].format(address=address), f"clbench show {address}")
    return "\n".join([f"written: {file}", "next:", *(f"  {command}" for command in commands)])


def _refuse_name(kind: str, name: str, file: Path) -> None:
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        raise NewFileError(f"{name!r}: use lower-case letters, digits and '_', as in my_method")
    if file.exists():
        raise NewFileError(f"{file} is there already; nothing is overwritten")
    known = names() if kind == "metric" else REGISTRIES[OWN_KINDS[kind]].names()
    if name.replace("_", "-") in known:
        raise NewFileError(f"there is a {kind} {name.replace('_', '-')!r} already; choose another name")
    if importlib.util.find_spec(name) is not None:
        raise NewFileError(f"{file} would hide the Python module {name!r}; choose another name")
