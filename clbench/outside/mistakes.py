"""Tell what goes wrong inside somebody's own class in one line: where, what, and the likely cause."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FunctionType

from clbench.errors import UserError

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
LONGEST = 240  # characters of an error's own words that are repeated
OURS = {"clbench", "abc", "builtins", "typing"}  # packages whose classes nobody wrote as a plug-in
NOT_GROWN = "the head has no place for a class: grow it in begin_task, by len(task.new_classes)"
NOT_MADE = "is it made in setup(), which is called before all other hooks?"
CAUSES = (  # what an error's type and words look like, and what has probably caused it
    (r"IndexError: Target -?\d+ is out of bounds", NOT_GROWN),
    (r"class values must be smaller than num_classes", NOT_GROWN),
    (r"torch\.cat\(\): expected a non-empty list", NOT_GROWN),
    (
        r"mat1 and mat2 shapes cannot be multiplied",
        "features are backbone.width wide: give that to the layer",
    ),
    (r"Given normalized_shape=|The size of tensor a ", "two widths differ: features are backbone.width wide"),
    (r"AttributeError: '\w+' object has no attribute", NOT_MADE),
    (r"learns in closed form and has no loss", "write loss(), or let num_epochs() return 0"),
    (r"non-default argument", "give every option a default"),
    (r"mutable default", "an option is a number, a text or true/false"),
    (r"cannot inherit non-frozen dataclass", "write @dataclass(frozen=True) above a module's class"),
    (r"cannot inherit frozen dataclass", "write @dataclass, without frozen=True, above the class"),
    (r"leaf Variable that requires grad|modified by an inplace operation", "a tensor is changed in place"),
    (r"does not require grad and does not have a grad_fn", "the loss is cut off from what is trained"),
)


class PluginError(UserError, RuntimeError):
    """A mistake in a strategy, stream, module, quantiser or metric that is not one of clbench's own."""


@contextmanager
def explained(*components: object, note: str = "") -> Iterator[None]:
    """Let an error from the own code of these components, classes or functions come out as one PluginError.

    What a user can mend by himself (a UserError), and errors that never passed through their code, stay what
    they are. ``note`` ends the line.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        named = [each if isinstance(each, (type, FunctionType)) else type(each) for each in components]
        place = _place(error, named)
        if place is None:
            raise
        raise PluginError(f"{place}: {in_words(error)}{note}") from error


def mistake_at_import(what: str, error: Exception) -> PluginError:
    """Return the line about a file or module ``what`` that cannot be imported."""
    frames = [each for each in traceback.extract_tb(error.__traceback__) if not _is_importing(each.filename)]
    place = f"{shown(frames[-1].filename)}:{frames[-1].lineno}" if frames else what
    if isinstance(error, ModuleNotFoundError):
        return PluginError(
            f"{place}: it imports {error.name!r}, which is not installed here; pip install the package that"
            f" holds it, or mend the name"
        )
    return PluginError(f"{place}: {in_words(error)}")


def in_words(error: BaseException) -> str:
    """Return an error's type, its words on one line, and what has probably caused it."""
    words = " ".join(str(error).split())
    said = f"{type(error).__name__}: {words}" if words else type(error).__name__
    cause = next((cause for pattern, cause in CAUSES if re.search(pattern, said)), "")
    return f"{said[:LONGEST]}{'...' if len(said) > LONGEST else ''}{cause and f' ({cause})'}"


def own_classes(component: type) -> list[type]:
    """Return what of a class's ancestry, itself first, its author wrote."""
    return [each for each in component.__mro__ if each.__module__.partition(".")[0] not in OURS]


def shown(file: str) -> str:
    """Return a file's path as it is typed where one is."""
    relative = os.path.relpath(file) if os.path.isabs(file) else file
    return file if relative.startswith(os.pardir) else relative


def _place(error: Exception, components: Sequence[type | FunctionType]) -> str | None:
    """Return ``Class.hook (file:line)``: which hook was called, and where in its author's files it failed."""
    frames = traceback.extract_tb(error.__traceback__)
    for component in components:
        files = _files(component)
        own = [each for each in frames if each.filename in files]
        if own:
            called = f"{component.__name__}.{own[0].name}" if isinstance(component, type) else own[0].name
            return f"{called} ({shown(own[-1].filename)}:{own[-1].lineno})"
    return None


def _files(component: type | FunctionType) -> set[str]:
    """Return the files that hold what the author of a class or function wrote of it."""
    if isinstance(component, FunctionType):
        is_ours = component.__module__.partition(".")[0] in OURS
        return set() if is_ours else {component.__code__.co_filename}
    files = set()
    for each in own_classes(component):
        files |= {own.__code__.co_filename for own in vars(each).values() if isinstance(own, FunctionType)}
        files.add(str(getattr(sys.modules.get(each.__module__), "__file__", None)))
    return files


def _is_importing(file: str) -> bool:
    """Tell whether a file is of what imports: Python's own, or this package's."""
    return file.startswith(("<frozen", HERE)) or os.sep + "importlib" + os.sep in file
