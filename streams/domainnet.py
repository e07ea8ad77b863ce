"""Make a stream of DomainNet: 586,575 images of 345 classes in six domains, from clipart to sketch.

X. Peng et al., "Moment matching for multi-source domain adaptation", ICCV 2019, arXiv:1812.01754, the cleaned
version. For non-commercial research only. Decoded, all of it takes 115 GB at 256 pixels, 29 GB at 128. Each
domain is a task, or with ``stream.scenario=class stream.tasks=5`` the classes come in turn, from all domains.
Natural order: the classes by their names' alphabet.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from clbench.data.listings import Labelled, Listing, chosen, join_domains, numbered_names, read_rows
from clbench.data.sources import find_listed
from clbench.streams import Places, Source, Stream, register

DOMAINS = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")


@register("domainnet", data="domainnet DomainNet")
@dataclass
class DomainNet(Stream):
    """Looked for as ``domainnet/`` or ``DomainNet/`` with its lists, such as ``clipart_train.txt``."""

    tasks: str = "stream"
    scenario: Literal["class", "task", "domain"] = "domain"
    domain_order: str = ",".join(DOMAINS)  # which, in the order in which they are met
    stored_size: Annotated[int, Field(ge=0)] = 0  # pixels at which images are kept; 0: 256

    def load(self, places: Places) -> Source:
        """Return DomainNet."""
        folders = dict.fromkeys(("domainnet", "DomainNet"), self._list)
        return find_listed("domainnet", places, folders, stored_size=self.stored_size)

    def _list(self, root: Path) -> Listing:
        """List the domains by their lists, with ``<domain>/<class>/<file> <class number>`` in a line."""
        names: dict[int, str] = {}

        def part(domain: str, name: str) -> Labelled:
            rows = read_rows(root / f"{domain}_{name}.txt")
            names.update({int(label): Path(file).parent.name for file, label in rows})
            return [(root / file, int(label)) for file, label in rows]

        domains = chosen("domain_order", self.domain_order, DOMAINS)
        parts = {each: Listing(part(each, "train"), part(each, "test"), []) for each in domains}
        labels = [label for each in parts.values() for _, label in each.train]
        return join_domains(parts, numbered_names(labels, names))
