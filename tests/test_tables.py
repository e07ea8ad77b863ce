"""Show that a row of a table becomes the class that it would be if it were written out."""

from __future__ import annotations

import copy
import hashlib
import inspect
import pickle
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from clbench import petl, strategies
from clbench.cards import RegistryError, read_cards, read_rows
from clbench.cli.options import Option, options, type_in_words
from clbench.options import SpecError, build
from clbench.registry import Registry
from clbench.runs.sources import source_digest
from clbench.tables import make_class, type_of_words

TABLE = """
preset = { song = "tweet" }

["owner.finch"]
summary = "A finch: small."
about = "Somebody, 2000."
class = "Finch"
colours = ["red", "brown"]
options.size = "width"
options.wings = ["num_wings", "int >= 2", 2, "on both sides"]
options.mood = ["", "glad | sad", "glad"]

["owner.egg"]
summary = "An egg."
class = "Egg"
"""
CODE = '''"""Birds."""

from pathlib import Path

from birds_home import Bird, registry

from clbench.cards import read_rows
from clbench.tables import make_class

for _row in read_rows(Path(__file__)):
    _made = make_class(_row, [Bird], __name__, frozen=True)
    globals()[_row.title] = registry.register(_row.name, **_row.preset)(_made)
'''
HOME = '''"""What a bird is."""

from dataclasses import dataclass
from typing import ClassVar

from clbench.registry import Registry

@dataclass(frozen=True)
class Bird:
    """A bird."""

    colours: ClassVar[tuple[str, ...]] = ()

    size: int = 1  # of the body

registry = Registry("birds", __name__, Bird)
__path__ = []
'''


@pytest.fixture
def birds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file with a table beside it."""
    (tmp_path / "birds_home.py").write_text(HOME)
    (tmp_path / "birds.py").write_text(CODE)
    (tmp_path / "birds.table.toml").write_text(TABLE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "birds.py"
    for name in ("birds", "birds_home"):
        sys.modules.pop(name, None)


@pytest.fixture
def registry(birds: Path) -> Registry[Any]:
    import birds_home

    found: Registry[Any] = birds_home.registry
    return found


def test_cards_are_read_off_a_table_without_importing(birds: Path) -> None:
    finch, egg = read_cards(birds, "birds")
    assert (finch.name, finch.doc) == ("owner.finch", "A finch: small.\n\nSomebody, 2000.\n\nBirds.")
    assert finch.preset == egg.preset == {"song": "tweet"}
    assert (egg.summary, egg.origin) == ("An egg", "birds")
    assert "birds" not in sys.modules


def test_a_row_becomes_a_dataclass_of_the_file(registry: Registry[Any]) -> None:
    finch = registry.get("birds:Finch")
    assert (finch.__module__, finch.__doc__) == ("birds", "A finch: small.\n\nSomebody, 2000.")
    assert repr(finch(wings=4)) == "Finch(size=1, wings=4, mood='glad')"
    assert asdict(finch()) == {"size": 1, "wings": 2, "mood": "glad"}
    assert finch.colours == ("red", "brown")
    assert finch.keywords == {"size": "width", "wings": "num_wings"}
    for same in (pickle.loads(pickle.dumps(finch(size=3))), copy.deepcopy(finch(size=3))):
        assert same == finch(size=3)
    assert registry.get("owner.egg").keywords == {}


def test_options_of_a_row_are_checked_and_shown_as_any_others(registry: Registry[Any]) -> None:
    finch = registry.get("birds:Finch")
    assert options(finch) == [
        Option("wings", "int >= 2", "2", "on both sides"),
        Option("mood", "glad | sad", "glad", ""),
        Option("size", "int", "1", "of the body"),
    ]
    with pytest.raises(SpecError, match=r"bird\.wings: 1 is not allowed"):
        build(finch, "bird", {"wings": 1})
    with pytest.raises(SpecError, match=r"bird\.mood: 'cross' is not allowed"):
        build(finch, "bird", {"mood": "cross"})


def test_an_edited_table_is_read_anew(birds: Path, registry: Registry[Any]) -> None:
    assert registry.get(f"{birds}:Finch")().wings == 2
    table = birds.with_suffix(".table.toml")
    table.write_text(table.read_text().replace('2, "on', '4, "on'))
    assert registry.get(f"{birds}:Finch")().wings == 4


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("['a'", r"x\.table\.toml: not valid TOML"),
        ('["a.b"]\nclass = "B"', r"x\.table\.toml: \['a\.b'\] needs class and summary"),
        ("a = 1", r"x\.table\.toml: \['a'\] needs class and summary"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_line(table: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "x.py").touch()
    (tmp_path / "x.table.toml").write_text(table)
    with pytest.raises(RegistryError, match=told):
        read_cards(tmp_path / "x.py", "x")


def test_a_file_without_a_table_has_no_rows(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "x.py") == []


@pytest.mark.parametrize(
    "hint",
    [
        int,
        float,
        str,
        bool,
        Literal[True],
        Literal["a", "b"],
        Annotated[int, Field(ge=1)],
        Annotated[float, Field(gt=0)],
        Annotated[float, Field(ge=0, lt=1)],
        Annotated[float, Field(ge=0, le=1)],
    ],
)
def test_a_type_is_read_from_the_words_that_show_it(hint: Any) -> None:
    assert repr(type_of_words(type_in_words(hint))) == repr(hint)


def test_a_comment_of_a_subclass_stands_for_that_of_a_row(birds: Path) -> None:
    row = read_rows(birds)[0]
    finch = make_class(row, [object], __name__)

    @dataclass
    class Tame(finch):  # type: ignore[misc, valid-type]
        wings: int = 1  # clipped

    assert [each.comment for each in options(Tame) if each.name == "wings"] == ["clipped"]
    assert [field.name for field in fields(Tame)] == ["wings", "mood"]


def test_a_table_belongs_to_the_source_of_its_strategies() -> None:
    strategy = strategies.get("avalanche.naive")
    code = Path(inspect.getfile(strategy))
    source = code.read_bytes() + code.with_suffix(".table.toml").read_bytes()
    assert source_digest(strategy) == hashlib.sha256(source).hexdigest()


@pytest.mark.parametrize("name", ["peft.dora", "avalanche.naive"])
def test_every_row_of_ours_is_registered(name: str) -> None:
    registry: Any = petl.registry if name in petl.names() else strategies.registry
    rows = read_rows(Path(inspect.getfile(registry.get(name))))
    assert len(rows) > 5
    for row in rows:
        assert registry.get(row.name).__name__ == row.title
