"""Make each domain of a collection a task: the same classes, seen in another way.

G. M. van de Ven, T. Tuytelaars, A. S. Tolias, "Three types of incremental learning", Nature Machine
Intelligence 4, 2022; earlier as arXiv 1904.07734.
"""

from __future__ import annotations

from clbench.data.orders import ProtocolError
from clbench.data.samples import Samples
from clbench.data.tasks import Source


def by_domain(source: Source) -> list[tuple[str, Samples, Samples]]:
    """Return the name, the training and the test images of each domain, in the collection's order."""
    if source.domain is None:
        raise ProtocolError(
            "stream.scenario: this collection has no domains of its own; make some with stream.domains"
            " (rotations, permutations, corruptions)"
        )
    domains = []
    for index, name in enumerate(source.domain_names):
        train, test = (part.select(source.domain[part.rows] == index) for part in (source.train, source.test))
        for kind, part in (("training", train), ("test", test)):
            if not len(part):
                raise ProtocolError(f"stream.scenario: the domain {name!r} has no {kind} image")
        domains.append((name, train, test))
    return domains
