"""Add the pages that are made to those that are written: mkdocs calls this file while it builds the site.

Made are the pages about methods and metrics, and those whose text stands elsewhere in the repository.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from families import FAMILIES, in_families
from methods import method_pages, metric_pages
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = {  # documents of the repository, and the page that shows each
    "README.md": "index.md",
    "benchmarks/README.md": "benchmarks.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"\]\(([^)\s#:]+)(#[^)\s]*)?\)")
DRAWING = re.compile(r"!\[[^\]]*\]\(([\w/-]+\.svg)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the made pages, and name them in the navigation."""
    for address, text in (*method_pages(), *metric_pages()):
        files.append(File.generated(config, address, content=text))
    for document, address in ELSEWHERE.items():
        if files.get_file_from_path(address) is None:
            text = _rewritten((ROOT / document).read_text("utf-8"), document, address)
            files.append(File.generated(config, address, content=text))
    for picture in sorted(ROOT.glob("benchmarks/results/*.png")):
        address = picture.relative_to(ROOT).as_posix()
        files.append(File.generated(config, address, abs_src_path=str(picture)))
    assert config.nav is not None
    config.nav = [_filled(entry, files) for entry in config.nav]
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to the repository's documents at their pages, and put drawings into the page itself.

    A drawing that is part of the page takes its colours from it, also when a reader changes them.
    """
    address = page.file.src_uri
    if page.file.generated_by is not None:
        return markdown
    markdown = DRAWING.sub(lambda found: _drawing(Path(config.docs_dir) / found[1]), markdown)
    return _rewritten(markdown, f"docs/{address}", address)


def _filled(entry: Any, files: Files) -> Any:
    """Put the made pages where the navigation says ``methods/strategies/*``."""
    if isinstance(entry, dict):
        return {title: _filled(below, files) for title, below in entry.items()}
    if isinstance(entry, list):
        return [_filled(below, files) for below in entry]
    if not entry.endswith("/*"):
        return entry
    folder = entry.removesuffix("*")
    inside = [file.src_uri for file in files.documentation_pages() if file.src_uri.startswith(folder)]
    pages = {posixpath.basename(each).removesuffix(".md"): each for each in inside}
    index = pages.pop("index")
    kind = posixpath.basename(folder.rstrip("/"))
    if kind not in FAMILIES:
        return [index, *({name: page} for name, page in pages.items())]
    families = in_families(kind, pages)
    return [index, *({family: [{name: pages[name]} for name in names]} for family, names in families.items())]


def _rewritten(text: str, document: str, address: str) -> str:
    """Return a document's text with its links as they are on the page at ``address``."""

    def link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(document), found[1]))
        if not (ROOT / target).exists():
            return found[0]
        if target in ELSEWHERE:
            target = f"docs/{ELSEWHERE[target]}"
        elif not target.startswith(("docs/", "benchmarks/results/")):
            raise ValueError(f"{document} links to {found[1]}, of which the site has no page")
        there = posixpath.relpath(target.removeprefix("docs/"), posixpath.dirname(address) or ".")
        return f"]({there}{found[2] or ''})"

    return LINK.sub(link, text)


def _drawing(file: Path) -> str:
    """Return an SVG file as one block of HTML."""
    return f"<figure>\n{file.read_text('utf-8').strip()}\n</figure>"
