"""Trees of class folders: what lies there and is not read is counted, and nothing there hangs a run."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from clbench import streams
from clbench.data.decode import decode_file
from clbench.data.folders import list_domains, list_folder, lister
from clbench.data.listings import FolderError, read_listing, read_matlab, read_rows
from clbench.errors import UserError
from clbench.seeds import Seeds
from clbench.streams import Places


def write(folder: Path, count: int = 3) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (2, 2)).save(folder / f"{number}.png")


def make_socket(path: Path) -> None:
    where = os.getcwd()
    os.chdir(path.parent)  # the name of a socket may not be long
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(where)


def write_strange_tree(root: Path) -> None:
    """Write two classes of three images, and one or more of all that is not read."""
    write(root / "train" / "ant")
    write(root / "train" / "bee")
    write(root / "test" / "ant")
    write(root / "test" / "bee")
    ant = root / "train" / "ant"
    write(root / "val" / "ant")  # not the test part, as there is one
    write(root / "docs")
    (root / "README.txt").write_text("text")
    (root / "cover.jpg").write_text("beside the class folders")
    (ant / "list.csv").write_text("1,2")
    (ant / "more.CSV").write_text("1,2")
    (ant / "noending").write_text("1,2")
    (ant / ".thumbs").mkdir()
    (ant / ".hidden.png").write_text("")
    (ant / "nowhere.png").symlink_to(root / "gone.png")
    (ant / "self.png").symlink_to(ant / "self.png")
    (ant / "folder").symlink_to(root / "docs")
    (root / "train" / "circle").symlink_to(root)
    os.mkfifo(ant / "pipe.png")
    make_socket(ant / "socket.png")
    (ant / "device.png").symlink_to("/dev/zero")


def test_all_that_is_not_read_is_counted_and_said_in_one_line(tmp_path: Path) -> None:
    write_strange_tree(tmp_path)
    listing = list_folder(tmp_path)
    assert [len(listing.train), len(listing.test)] == [6, 6]
    assert listing.class_names == ["ant", "bee"]
    assert listing.notes == [
        f"not read in {tmp_path}: 5 links, 4 files with other endings (.csv, .txt, none),"
        " 2 folders (docs, val), 1 image outside the class folders, 2 hidden entries,"
        " 2 pipes, sockets or devices"
    ]


def test_where_everything_is_read_nothing_is_said(tmp_path: Path) -> None:
    write(tmp_path / "ant")
    write(tmp_path / "bee" / "below")  # images below a class folder are of that class
    assert list_folder(tmp_path).notes == []


def test_linked_images_and_linked_class_folders_are_read(tmp_path: Path) -> None:
    write(tmp_path / "store" / "ant")
    write(tmp_path / "tree" / "bee", count=1)
    (tmp_path / "tree" / "ant").symlink_to(tmp_path / "store" / "ant")
    (tmp_path / "tree" / "bee" / "linked.png").symlink_to(tmp_path / "store" / "ant" / "0.png")
    listing = list_folder(tmp_path / "tree")
    assert listing.class_names == ["ant", "bee"]
    assert len(listing.train) + len(listing.test) == 5
    assert listing.notes == []


def test_domains_and_test_lists_say_it_too(tmp_path: Path) -> None:
    for domain in ("day", "night"):
        write(tmp_path / "domains" / domain / "ant")
        (tmp_path / "domains" / domain / "ant" / "notes.txt").write_text("")
    root = tmp_path / "domains"
    assert list_domains(root).notes == [f"not read in {root}: 2 files with other endings (.txt)"]
    write(tmp_path / "tree" / "ant")
    (tmp_path / "tree" / "notes.txt").write_text("")
    (tmp_path / "test.txt").write_text("ant/1.png")
    root = tmp_path / "tree"
    assert lister(str(tmp_path / "test.txt"))(root).notes == [
        f"not read in {root}: 1 file with another ending (.txt)"
    ]


def test_a_class_without_images_is_refused_and_says_what_it_holds(tmp_path: Path) -> None:
    write(tmp_path / "ant")
    (tmp_path / "bee").mkdir()
    (tmp_path / "bee" / "0.heic").write_text("")
    with pytest.raises(
        FolderError, match=r"bee is empty: it holds no image \(not read there: 1 file .*\.heic"
    ):
        list_folder(tmp_path)


def test_a_name_that_is_no_utf8_is_read(tmp_path: Path) -> None:
    write(tmp_path / "tree" / "ant")
    os.rename(tmp_path / "tree" / "ant" / "0.png", os.fsencode(tmp_path / "tree" / "ant") + b"/\xff.png")
    os.rename(tmp_path / "tree" / "ant", os.fsencode(tmp_path / "tree") + b"/\xe4nt")
    listing = list_folder(tmp_path / "tree")
    source = read_listing(listing, "tree", cache_dir=tmp_path / "cache", stored_size=0)
    assert len(source.train) == 2
    assert source.class_names == ["\udce4nt"]


USES: dict[str, tuple[Callable[[Path], object], str]] = {
    "image": (lambda root: decode_file(root / "pipe", (2, 2)), "pipe: it is a pipe, not a file"),
    "image device": (lambda root: decode_file(Path("/dev/zero"), (2, 2)), "it is a device, not a file"),
    "image folder": (lambda root: decode_file(root, (2, 2)), "it is a folder, not a file"),
    "list": (lambda root: read_rows(root / "pipe"), "it is a pipe"),
    "list device": (lambda root: read_rows(Path("/dev/zero")), "it is a device"),
    "matlab": (lambda root: read_matlab(root / "pipe"), "it is a pipe"),
    "npz": (lambda root: stream("npz", root, file=str(root / "pipe")), "it is a pipe"),
    "npz device": (lambda root: stream("npz", root, file="/dev/zero"), "it is a device"),
    "folder": (lambda root: stream("folder", root, path=str(root / "pipe")), "no folder"),
    "torchvision": (lambda root: stream("split-mnist", root), "incomplete or damaged"),
    "test list": (lambda root: stream("split-imagenet-r", root, test_list=str(root / "pipe")), "is a pipe"),
    "order": (lambda root: stream("split-digits", root, order=f"file:{root / 'pipe'}"), "it is a pipe"),
}


def stream(name: str, root: Path, **options: str) -> object:
    return streams.get(name)(**options).build(name, Places(root, root / "cache"), Seeds(0))


@pytest.mark.parametrize("name", USES)
def test_nothing_that_never_ends_hangs_a_run(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    os.mkfifo(tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte")
    write(tmp_path / "imagenet-r" / "ant")
    import torchvision.datasets  # noqa: F401  # on a busy machine it takes longer than a hang is given

    use, said = USES[name]
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it hangs"))
    signal.alarm(20)
    try:
        with pytest.raises(UserError, match=said) as refusal:
            use(tmp_path)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert "\n" not in str(refusal.value)
