"""A name comes through one of three doors, and looking does not open them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from clbench.cards import RegistryError, read_cards
from clbench.cli.listing import REGISTRIES
from clbench.outside.mistakes import PluginError
from clbench.registry import Registry, UnknownNameError, did_you_mean

PLUGIN = '''"""Learn nothing at all.

Nobody, 2000.
"""
from animals import Animal, registry

print("imported")

@registry.register("{name}", sound="{sound}")
class {title}(Animal):
    """It sleeps."""
'''
PACKAGE = """
from clbench.registry import Registry

class Animal:
    pass

registry: Registry[Animal] = Registry("animals", __name__, Animal)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package ``animals`` with one plug-in, cat."""
    package = tmp_path / "animals"
    package.mkdir()
    (package / "__init__.py").write_text(PACKAGE)
    (package / "cat.py").write_text(PLUGIN.format(name="cat", sound="meow", title="Cat"))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] in ("animals", "dogs")]:
        del sys.modules[name]


@pytest.fixture
def animals(folder: Path) -> Registry[object]:
    import animals

    registry: Registry[object] = animals.registry
    return registry


@pytest.fixture
def dog(folder: Path) -> Path:
    """A file outside the package."""
    file = folder / "dogs.py"
    file.write_text(PLUGIN.format(name="owner.dog", sound="bark", title="Dog"))
    return file


def test_a_card_is_read_without_importing(
    animals: Registry[object], capsys: pytest.CaptureFixture[str]
) -> None:
    card = animals.card("cat")
    assert (card.summary, card.preset) == ("Learn nothing at all", {"sound": "meow"})
    assert card.doc.endswith("Nobody, 2000.\n\nIt sleeps.")
    assert not capsys.readouterr().out


def test_first_door_a_file_in_the_folder(animals: Registry[object]) -> None:
    assert animals.names() == ["cat"]
    assert animals.get("cat").__name__ == "Cat"


def test_second_door_an_entry_point(
    animals: Registry[object],
    dog: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    point = EntryPoint("owner.dog", "dogs:Dog", "clbench.animals")
    monkeypatch.setattr("clbench.registry.entry_points", lambda group: [point])
    assert animals.names() == ["cat", "owner.dog"]
    assert animals.plugins() == {"owner.dog": "dogs:Dog"}
    assert not capsys.readouterr().out
    assert animals.get("owner.dog").__name__ == "Dog"
    assert animals.card("owner.dog").preset == {"sound": "bark"}


@pytest.mark.parametrize("address", ["dogs.py:Dog", "dogs.py", "dogs:Dog"])
def test_third_door_an_address(
    address: str, animals: Registry[object], dog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(dog.parent)
    assert animals.get(address).__name__ == "Dog"
    assert animals.get(address) is animals.get(address)
    assert animals.card(address).preset == {"sound": "bark"}
    assert address not in animals.names()


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("cta", "no 'cta' among the animals; did you mean 'cat'"),
        ("dogs.py:Dig", "no 'Dig'; did you mean 'Dog'"),
        ("cats.py:Cat", "no file cats.py"),
        ("nowhere:Cat", "no module named 'nowhere'"),
        (":Cat", "path/to/file.py:Class"),
        ("..dogs:Dog", "path/to/file.py:Class"),
    ],
)
def test_an_unknown_name_is_told_with_what_is_near(
    address: str, told: str, animals: Registry[object], dog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(dog.parent)
    with pytest.raises(UnknownNameError) as raised:
        animals.get(address)
    assert told in str(raised.value)


def test_a_relative_address_is_looked_up_where_one_is(
    animals: Registry[object], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for place in ("north", "south"):
        (folder / place).mkdir()
        (folder / place / "dogs.py").write_text(PLUGIN.format(name=f"{place}.dog", sound=place, title="Dog"))
        monkeypatch.chdir(folder / place)
        found[place] = animals.get("dogs.py:Dog")
        assert animals.card("dogs.py:Dog").preset == {"sound": place}
    assert found["north"] is not found["south"]
    assert [animals.name_of(each) for each in found.values()] == ["dogs.py:Dog"] * 2
    assert animals.get("../north/dogs.py:Dog") is found["north"]
    monkeypatch.chdir(folder)
    with pytest.raises(UnknownNameError, match=r"no file dogs\.py"):
        animals.get("dogs.py:Dog")


@pytest.mark.parametrize("address", ["dogs.py:Dog", "dogs.py"])
def test_a_file_that_was_edited_is_imported_anew(
    address: str, animals: Registry[object], dog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(dog.parent)
    first, text = animals.get(address), dog.read_text()
    dog.write_text(text.replace("bark", "yelp"))  # as long, and in the same second
    second = animals.get(address)
    assert second is not first
    assert second is animals.get(address) is animals.get("owner.dog")
    assert animals.card(address).preset == {"sound": "yelp"}
    assert animals.name_of(first) == address
    dog.write_text(text)
    assert animals.card(address).preset == {"sound": "bark"}


def test_a_file_that_is_broken_by_an_edit_can_be_mended(
    animals: Registry[object], dog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(dog.parent)
    animals.get("dogs.py")
    text = dog.read_text()
    dog.write_text(f"{text}\nclass :")
    with pytest.raises(RegistryError, match=r"dogs\.py:13: "):
        animals.get("dogs.py")
    dog.write_text(f"{text}\nraise OSError('no disk')")  # after the class is registered
    with pytest.raises(PluginError, match=r"dogs\.py:13: OSError: no disk"):
        animals.get("dogs.py")
    dog.write_text(text)
    assert animals.get("dogs.py") is animals.get("dogs.py:Dog")
    assert animals.card("dogs.py").preset == {"sound": "bark"}


def test_a_file_asked_for_one_class_can_be_asked_for_its_only_one(
    animals: Registry[object], dog: Path
) -> None:
    assert animals.get(f"{dog}:Dog") is animals.get(str(dog))


def test_two_classes_of_a_file_cannot_have_one_name(animals: Registry[object], dog: Path) -> None:
    again = "\n".join(PLUGIN.format(name="owner.dog", sound="woof", title="Hound").splitlines()[8:])
    dog.write_text(dog.read_text() + again)
    with pytest.raises(RegistryError, match=r"dogs\.py was imported as"):
        animals.get(str(dog))


def test_a_file_that_registers_two_is_asked_for_one(animals: Registry[object], folder: Path) -> None:
    second = "\n".join(PLUGIN.format(name="wolf", sound="howl", title="Wolf").splitlines()[8:])
    (folder / "two.py").write_text(PLUGIN.format(name="fox", sound="yap", title="Fox") + second)
    with pytest.raises(UnknownNameError, match=r"registers 2 animals; say which: .*two.py:ClassName"):
        animals.get(str(folder / "two.py"))


def test_a_class_of_another_kind_is_refused(animals: Registry[object]) -> None:
    with pytest.raises(RegistryError, match="'fractions:Fraction' is no class derived from Animal"):
        animals.get("fractions:Fraction")


def test_a_name_claimed_twice_is_told_with_both_files(animals: Registry[object], folder: Path) -> None:
    (folder / "other.py").write_text(PLUGIN.format(name="cat", sound="hiss", title="Cat"))
    animals.get("cat")
    with pytest.raises(RegistryError, match=r"registered twice: by .*cat.py and by .*other.py"):
        animals.get(str(folder / "other.py"))


def test_a_name_claimed_twice_in_the_folder_is_told(animals: Registry[object], folder: Path) -> None:
    (folder / "animals" / "tom.py").write_text(PLUGIN.format(name="cat", sound="hiss", title="Tom"))
    with pytest.raises(RegistryError, match=r"'cat' is registered in animals.cat and animals.tom"):
        animals.names()


def test_a_file_imported_under_two_names_is_told_which_is_right(
    animals: Registry[object], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    animals.get("cat")
    with pytest.raises(RegistryError, match=r"import it as animals\.cat only"):
        animals.get(str(folder / "animals" / "cat.py"))


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("class :", r"x.py:1: "),
        ("from a import register\n@register(NAME)\nclass A: ...", r"x.py:2: @register takes a quoted name"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_with_its_line(source: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(source)
    with pytest.raises(RegistryError, match=told):
        read_cards(tmp_path / "x.py", "x")


@pytest.mark.parametrize("name", ["Cat", "cat_2", "", "a b", "-cat"])
def test_a_name_is_lower_case_with_hyphens(name: str, animals: Registry[object]) -> None:
    with pytest.raises(ValueError, match="lower-case"):
        animals.register(name)


def test_near_names_are_near() -> None:
    assert did_you_mean("lea", ["lae", "naive"]) == "; did you mean 'lae'?"
    assert did_you_mean("xyz", ["lae", "naive"]) == ""


@pytest.mark.parametrize("registry", REGISTRIES.values(), ids=REGISTRIES)
def test_every_built_in_keeps_its_name_and_says_what_it_is(registry: Registry[object]) -> None:
    for name in registry.names():
        before = registry.card(name)
        assert registry.get(name).__module__ == before.origin
        assert registry.card(name) == before
        assert before.summary


def test_naming_everything_imports_no_component() -> None:
    code = """
import sys
from clbench.cli.listing import REGISTRIES
cards = [registry.card(name) for registry in REGISTRIES.values() for name in registry.names()]
print(*(card.origin for card in cards if card.origin in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "\n"
