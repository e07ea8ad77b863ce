"""Make the domains of a collection its tasks: the same classes, seen in another way.

G. M. van de Ven, T. Tuytelaars, A. S. Tolias, "Three types of incremental learning", Nature Machine
Intelligence 4, 2022, arXiv 1904.07734.
"""

from __future__ import annotations

from clbench.data.orders import EQUAL, OWN, ProtocolError
from clbench.data.samples import Samples
from clbench.streams import Source


def by_domain(source: Source, tasks: str) -> list[tuple[str, Samples, Samples]]:
    """Return the name, the training and the test images of each domain, in the collection's order."""
    if source.domain is None:
        raise ProtocolError(
            "stream.scenario: this collection has no domains of its own; make some with stream.domains"
            " (rotations, permutations, corruptions)"
        )
    most = len(source.domain_names)
    num_domains = most if tasks.strip().lower() == OWN else count_domains(tasks, most)
    domains = []
    for index, name in enumerate(source.domain_names[:num_domains]):
        train, test = (part.select(source.domain[part.rows] == index) for part in (source.train, source.test))
        for kind, part in (("training", train), ("test", test)):
            if not len(part):
                raise ProtocolError(f"stream.scenario: the domain {name!r} has no {kind} image")
        domains.append((name, train, test))
    return domains


def count_domains(tasks: str, most: int | None) -> int:
    """Read the number of domains off the spelling of a number of tasks; None: there is no highest."""
    spelt = EQUAL.fullmatch(tasks.strip())
    if spelt and int(spelt[1]) >= 1 and (most is None or int(spelt[1]) <= most):
        return int(spelt[1])
    allowed = "a number of domains, at least 1" if most is None else f"1 to {most}"
    own = "" if most is None else f", {OWN} for all"
    raise ProtocolError(
        f"stream.tasks: {tasks!r} tasks, each a domain, cannot be had (allowed: {allowed}{own})"
    )
