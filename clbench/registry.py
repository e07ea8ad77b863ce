"""Find streams, strategies, backbones and modules by name: the only place where a string becomes code.

A name comes through one of three doors: a file in the kind's folder, an entry point in the group
``clbench.<kind>``, or ``path/to/file.py:Class`` / ``module:Class``. Listing imports nothing: names, presets
and docstrings are read off the source with ``ast``, and an entry point's code is loaded only when its name is
asked for.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterable
from functools import cached_property
from importlib.machinery import SourceFileLoader
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar, cast

from clbench.cards import Card, Literal, RegistryError, not_python, read_cards, source_files
from clbench.errors import UserError
from clbench.outside.mistakes import mistake_at_import, shown

T = TypeVar("T")
NAME = re.compile(r"[a-z0-9]+(?:[.-][a-z0-9]+)*")
CONTENTS = "__clbench_contents__"  # where a module imported by its path holds what its files held


def plugin_path(package_file: str) -> list[str]:
    """Folders holding the plug-in files of one kind: beside the package, or ../../<kind> in a checkout."""
    here = Path(package_file).parent
    checkout = here.parents[1]
    beside = [str(checkout / here.name)] if (checkout / "pyproject.toml").is_file() else []
    return [str(here), *beside]


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest names, or an empty string."""
    near = difflib.get_close_matches(name, list(allowed), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


class UnknownNameError(UserError, KeyError):
    """A name that nothing is registered under."""


class Registry(Generic[T]):
    """One kind of component: its names, and the classes behind them."""

    def __init__(self, kind: str, package: str, base: type = object) -> None:
        """Make the registry of ``kind``: subclasses of ``base``, in the files on the path of ``package``."""
        self.kind = kind
        self.package = package
        self.base = base
        self._classes: dict[str, type[T]] = {}  # by registered name
        self._modules: dict[str, ModuleType] = {}  # that registered the name
        self._addresses: dict[type[T], str] = {}  # as they were typed last
        self._cards: dict[str, Card] = {}

    def register(self, name: str, **preset: Literal) -> Callable[[type[T]], type[T]]:
        """Return a decorator that makes a class available as ``name``.

        ``preset`` are literals that describe the class to whoever has not imported it.
        """
        if not NAME.fullmatch(name):
            raise ValueError(
                f"{self.kind} name {name!r}: use lower-case letters, digits, '-' and '.' (owner.name)"
            )

        def add(component: type[T]) -> type[T]:
            known = self._classes.get(name)
            module = sys.modules[component.__module__]
            if known is not None:
                before = self._modules.get(name, module)
                if before is module or before.__name__ != module.__name__:  # not imported anew
                    raise RegistryError(self._registered_twice(name, known, component))
                self._addresses.setdefault(known, name)  # which it was asked for by
            self._classes[name] = component
            self._modules[name] = module
            self._cards[name] = Card(name, _documentation(component), component.__module__, preset)
            return component

        return add

    def names(self) -> list[str]:
        """Return every known name, sorted."""
        return sorted({*self._index, *self._entry_points, *self._classes})

    def indexed(self) -> list[str]:
        """Return the names that files of this package register; those of others have no source to read."""
        return sorted(self._index)

    def card(self, name: str) -> Card:
        """Return what is known of a name without importing a file of ours for it."""
        known = self._index.get(name) or self._cards.get(name)
        if known:
            return known
        component = self.get(name)
        for own_name, card in self._cards.items():
            if self._classes[own_name] is component:  # an address of a class that is registered
                return card
        return Card(name, _documentation(component), name)

    def get(self, name: str) -> type[T]:
        """Return the class behind a name or an address; UnknownNameError if there is none."""
        if is_address(name):
            component = self._load(name)
            self._addresses[component] = name
            return component
        if name in self._classes:
            return self._classes[name]
        if name in self._index:
            importlib.import_module(self._index[name].origin)
        elif name in self._entry_points:
            self._classes.setdefault(name, self._checked(name, load(self._entry_points[name])))
        if name not in self._classes:
            self.check(name)
        return self._classes[name]

    def check(self, name: str) -> None:
        """Raise what ``get`` would, as far as that can be told without running a line of the component."""
        if ":" not in name and not name.endswith(".py"):
            if name not in self.names():
                near = did_you_mean(name, self.names())
                raise UnknownNameError(
                    f"no {name!r} among the {self.kind}{near} (see: clbench list {self.kind})"
                )
            return
        place, _, attribute = name.rpartition(":") if ":" in name else (name, "", "")
        if not place.endswith(".py"):
            return
        file = Path(place)
        if not file.is_file():
            raise UnknownNameError(f"{self.kind}: no file {file}")
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
        except (SyntaxError, UnicodeDecodeError) as error:
            raise not_python(file, error) from error
        # it may also be imported there, or made from a table, but it is written down somewhere
        if not any(attribute in each.read_text(encoding="utf-8") for each in source_files(file)):
            classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
            raise UnknownNameError(f"{place} has no {attribute!r}{did_you_mean(attribute, classes)}")

    def name_of(self, component: type[T]) -> str:
        """Return the name or address that a class was asked for by; UnknownNameError if by none."""
        if component in self._addresses:
            return self._addresses[component]
        for name, known in self._classes.items():
            if known is component:
                return name
        raise UnknownNameError(f"{component.__name__} is not registered among the {self.kind}")

    def plugins(self) -> dict[str, str]:
        """Return the names that installed packages bring as entry points, and where they lie."""
        return {name: point.value for name, point in sorted(self._entry_points.items())}

    @cached_property
    def _index(self) -> dict[str, Card]:
        """Read the names off the files of the package, without importing them."""
        cards: dict[str, Card] = {}
        for folder in importlib.import_module(self.package).__path__:
            for file in sorted(Path(folder).glob("[!_.]*.py")):
                for card in read_cards(file, f"{self.package}.{file.stem}"):
                    if card.name in cards:
                        raise RegistryError(
                            f"{card.name!r} is registered in {cards[card.name].origin} and {card.origin}"
                        )
                    cards[card.name] = card
        return cards

    @cached_property
    def _entry_points(self) -> dict[str, EntryPoint]:
        return entry_points_of(self.kind)

    def _load(self, address: str) -> type[T]:
        """Import ``file.py:Class`` or ``module:Class`` (or the one registered class of ``file.py``)."""
        module, attribute = imported(address, self.kind)
        if not attribute:
            added = [name for name in self._classes if self._modules.get(name) is module]
            if len(added) != 1:
                raise UnknownNameError(
                    f"{address} registers {len(added)} {self.kind}; say which: {address}:ClassName"
                )
            return self._classes[added[0]]
        return self._checked(address, member(module, attribute, address))

    def _checked(self, name: str, component: object) -> type[T]:
        """Return what a name of somebody else's stands for, if it is of this kind."""
        if not (isinstance(component, type) and issubclass(component, self.base)):
            raise RegistryError(f"{self.kind}: {name!r} is no class derived from {self.base.__name__}")
        return cast("type[T]", component)

    def _registered_twice(self, name: str, known: type[T], component: type[T]) -> str:
        first, second = inspect.getfile(known), inspect.getfile(component)
        if first == second:
            module = f"{self.package}.{Path(first).stem}"
            names = f"{known.__module__} and {component.__module__}"
            return f"{first} was imported as {names}; import it as {module} only"
        return f"{self.kind} {name!r} is registered twice: by {first} and by {second}"


def is_address(name: str) -> bool:
    """Tell ``file.py:Class``, ``module:Class`` and ``file.py`` from a name."""
    return ":" in name or name.endswith(".py")


def imported(address: str, kind: str) -> tuple[ModuleType, str]:
    """Import what an address names, and return the module and the attribute; "" where it names a file alone.

    UnknownNameError if there is no such place; PluginError if it is there, but cannot be imported.
    """
    place, _, attribute = address.rpartition(":") if ":" in address else (address, "", "")
    if place.endswith(".py"):
        return _import_file(Path(place), kind), attribute
    if not all(part.isidentifier() for part in place.split(".")):
        raise UnknownNameError(f"{kind} {address!r}: write path/to/file.py:Class or module:Class")
    try:
        return importlib.import_module(place), attribute
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{place}.".startswith(f"{error.name}."):
            raise UnknownNameError(f"{kind} {address!r}: no module named {error.name!r}") from error
        raise mistake_at_import(place, error) from error


def member(module: ModuleType, attribute: str, address: str) -> object:
    """Return what an address names inside the module that was imported for it."""
    if attribute not in vars(module):
        near = did_you_mean(attribute, vars(module))
        raise UnknownNameError(f"{address.rpartition(':')[0]} has no {attribute!r}{near}")
    return cast("object", vars(module)[attribute])


def entry_points_of(kind: str) -> dict[str, EntryPoint]:
    """Return what installed packages offer of a kind, by name; nothing is imported."""
    return {point.name: point for point in entry_points(group=f"clbench.{kind}")}


def load(point: EntryPoint) -> object:
    """Import what an entry point names; PluginError if that fails."""
    try:
        return cast("object", point.load())
    except UserError:
        raise
    except Exception as error:
        raise mistake_at_import(f"{point.name} ({point.value})", error) from error


def _documentation(component: type) -> str:
    module = inspect.getdoc(sys.modules[component.__module__]) or ""
    own = inspect.getdoc(component) or ""
    is_signature = own.startswith(f"{component.__name__}(")  # what a dataclass without words says of itself
    return module if is_signature else f"{module}\n\n{own}".strip()


def _import_file(file: Path, kind: str) -> ModuleType:
    """Import a file by its path, once until it is edited, under a name that cannot meet another's.

    An edited file becomes a new module; what was made from the old one stays as it is.
    """
    if not file.is_file():
        raise UnknownNameError(f"{kind}: no file {file}")
    path = file.resolve()
    name = f"clbench_file_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    contents = [each.read_bytes() for each in source_files(path)]
    known = sys.modules.get(name)
    if known is not None and vars(known)[CONTENTS] == contents:
        return known
    loader = SourceFileLoader(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None  # only to tell the type-checker
    module = importlib.util.module_from_spec(spec)
    vars(module)[CONTENTS] = contents
    sys.modules[name] = module
    try:  # not by the loader, whose compiled file may be of an edit in the same second
        exec(loader.source_to_code(contents[0], str(path)), vars(module))
    except BaseException as error:
        del sys.modules[name]
        if known is not None:  # serves the classes made from it, but is imported anew when asked for
            sys.modules[name] = known
            vars(known)[CONTENTS] = []
        if isinstance(error, (SyntaxError, UnicodeDecodeError)):
            raise not_python(path, error) from error
        if isinstance(error, UserError) or not isinstance(error, Exception):
            raise
        raise mistake_at_import(shown(str(path)), error) from error
    return module
