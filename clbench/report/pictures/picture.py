"""Hold a drawn figure, and give it as a file.

Figures are made as objects, without matplotlib's global state; equal numbers give equal bytes.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clbench.errors import UserError
from clbench.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("png", "pdf", "svg")  # what a report writes
DPI = 200  # of a file for a paper; a page on a screen makes do with 110


class NoPictureError(UserError, ValueError):
    """Records that do not hold what a picture shows; the text says what is missing."""


@dataclass(frozen=True)
class Picture:
    """A figure; a notebook shows it, ``save`` writes it."""

    figure: Figure

    @property
    def title(self) -> str:
        """What is written over the figure, in one line."""
        return self.figure.get_suptitle().replace("\n", " · ")

    def png(self, dpi: int = DPI) -> bytes:
        """Return the figure as a PNG of so many dots an inch."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        self.figure.set_dpi(dpi)
        buffer = io.BytesIO()
        # not savefig, which lays out and draws what has a layout twice
        FigureCanvasAgg(self.figure).print_png(  # type: ignore[no-untyped-call]  # matplotlib does not say
            buffer, metadata={"Software": None}
        )
        return buffer.getvalue()

    def save(self, path: Path | str) -> None:
        """Write the figure in the format that the name ends in: png, pdf, svg, ..."""
        path = Path(path)
        kind = path.suffix.lower().removeprefix(".")
        known = self.figure.canvas.get_supported_filetypes()
        if kind not in known:
            raise UserError(
                f"cannot save a picture as {path.name!r}; it may end in {', '.join(sorted(known))}"
            )
        if kind == "png":
            write_bytes(path, self.png())
            return
        write_bytes(path, self._drawn_as(kind))

    def _drawn_as(self, kind: str) -> bytes:
        """Return the figure in another format, with fonts that a press takes and without a date."""
        import matplotlib

        buffer = io.BytesIO()
        undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)
        with matplotlib.rc_context({"pdf.fonttype": 42, "ps.fonttype": 42, "svg.hashsalt": "clbench"}):
            self.figure.savefig(buffer, format=kind, metadata=undated)
        return buffer.getvalue()

    def _repr_png_(self) -> bytes:
        """Show the figure in a notebook."""
        return self.png(dpi=110)
