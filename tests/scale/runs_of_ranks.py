"""Do the runs whose specs lie in a folder, in the processes that torchrun has started; no test by itself.

    torchrun --nproc-per-node 2 tests/scale/runs_of_ranks.py SPECS OUT

``OUT/<name>.told`` holds the record's folder, or why the run was refused.
"""

import sys
from pathlib import Path

import torch

from clbench.backbones.ranks import Ranks
from clbench.cli.ranks import joined_ranks
from clbench.data.tasks import Places
from clbench.errors import UserError
from clbench.records.spec import RunSpec
from clbench.runs import line
from clbench.runs.sharing import follow


def told(spec: RunSpec, out: Path, ranks: Ranks) -> str:
    places = Places(cache_dir=out / "cache" / spec.id)  # what another run has computed is not known
    try:
        if not ranks.is_first:
            follow(ranks, places)
            return ""
        return str(line.execute(spec, out=out, places=places, ranks=ranks).path)
    except UserError as error:
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    specs, out = map(Path, sys.argv[1:])
    torch.set_num_threads(1)
    with joined_ranks() as ranks:
        assert ranks is not None
        for file in sorted(specs.glob("*.toml")):
            of_run = Ranks(ranks.index, ranks.number)  # what one run has seen is nothing to the next
            line_told = told(RunSpec.from_toml(file.read_text()), out, of_run)
            if of_run.is_first:
                (out / f"{file.stem}.told").write_text(f"{line_told}\n{of_run.num_bytes}")
