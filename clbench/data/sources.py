"""Find a named collection: as ``.npz``, in one of the layouts that it is known in, or by downloading it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from clbench.data.decode import ImageError
from clbench.data.downloads import FAILURES, Download, fetch
from clbench.data.folders import list_folder
from clbench.data.listings import FolderError, Listing, read_listing
from clbench.data.npz import read_npz
from clbench.data.tasks import DataNotFoundError, Places, Source
from clbench.errors import UserError
from clbench.outside.foreign import first_line

Lister = Callable[[Path], Listing]  # lists the images in a folder


@dataclass(frozen=True)
class Layout:
    """One way in which a collection may lie in a folder."""

    place: str  # the file or folder by which it is known
    shown: str  # how it is written for whoever has to make it
    read: Callable[[str, Path, Path], Source]  # (name, the folder that holds the place, cache folder)


def read_given(stream: str, path: str, lister: Lister, *, cache_dir: Path, stored_size: int) -> Source:
    """Return the images of the folder that a user named: ``--stream <stream>:PATH``."""
    if not path:
        raise UserError(f"stream {stream} needs a folder: --stream {stream}:PATH")
    root = Path(path).expanduser().resolve()
    return read_listing(lister(root), root.name, cache_dir=cache_dir, stored_size=stored_size)


def find_listed(
    name: str,
    places: Places,
    folders: Mapping[str, Lister],
    *,
    stored_size: int = 0,
    download: Download | None = None,
) -> Source:
    """Find a collection of image files in one of these folders, each with what lists its images.

    They are kept at ``stored_size`` pixels; 0: as they are if all alike and at most 256, else at 256.
    """
    layouts = [listed(place, lister, stored_size=stored_size) for place, lister in folders.items()]
    return find(name, places, *layouts, download=download)


def listed(place: str, list_images: Lister = list_folder, *, stored_size: int = 0) -> Layout:
    """Return the layout of a folder of image files, which ``list_images`` lists."""

    def read(name: str, root: Path, cache_dir: Path) -> Source:
        try:
            listing = list_images(root / place)
        except UserError:
            raise
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise FolderError(f"the lists in {root / place} are not as published: {error!r}") from error
        return read_listing(listing, name, cache_dir=cache_dir, stored_size=stored_size)

    shown = f"{place}/train/<class>/" if list_images is list_folder else f"{place}/"
    return Layout(place, shown, read)


def find(name: str, places: Places, *layouts: Layout, download: Download | None = None) -> Source:
    """Return the collection from the first place that has it; DataNotFoundError says where that was tried.

    The order is ``<name>.npz`` in the data folder, the layouts there, the layouts in what was downloaded
    earlier, and a new download.
    """
    root = places.data_dir.resolve() if places.data_dir else None
    if root and not root.is_dir():
        raise DataNotFoundError(f"--data-dir {places.data_dir}: no such folder")
    if root and (file := root / f"{name}.npz").is_file():
        return read_npz(file, cache_dir=places.cache_dir)
    downloads = (places.cache_dir / "downloads").resolve()
    for folder in (root, downloads):
        if folder and (layout := _first(layouts, folder)):
            return _read(name, layout, folder, places.cache_dir, download)
    failure = _downloaded(download, downloads)
    if not failure and (layout := _first(layouts, downloads)):
        return _read(name, layout, downloads, places.cache_dir, download)
    wanted = ", ".join([f"{name}.npz", *(layout.shown for layout in layouts)])
    where = f"in {root}" if root else "(no --data-dir given)"
    raise DataNotFoundError(
        f"{name} not found: looked for {wanted} {where}{failure}; name its folder with --data-dir,"
        " or try --stream split-digits"
    )


def _first(layouts: tuple[Layout, ...], folder: Path) -> Layout | None:
    return next((layout for layout in layouts if (folder / layout.place).exists()), None)


def _downloaded(download: Download | None, downloads: Path) -> str:
    """Try the download; return what is to be said where it failed."""
    if download is None:
        return ""
    try:
        fetch(download, downloads)
    except FAILURES as error:
        return f", and the download failed ({first_line(error)})"
    return ""


def _read(name: str, layout: Layout, folder: Path, cache_dir: Path, download: Download | None) -> Source:
    """Read a collection; whatever a library makes of bytes that are not as published is told in one line."""
    try:
        return layout.read(name, folder, cache_dir)
    except Exception as error:  # a library's reader may raise anything over bytes that it did not expect
        if isinstance(error, UserError) and not isinstance(error, (FolderError, ImageError)):
            raise
        reason = error
    advice = "remove it to have it downloaded again, or replace it" if download else "replace it"
    raise DataNotFoundError(
        f"{name}: {folder / layout.place} is incomplete or damaged; {advice} ({first_line(reason)})"
    ) from reason
