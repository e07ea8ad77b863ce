"""Put together what learns: the loop over a run's components, before anything keeps what comes of it."""

from __future__ import annotations

from clbench.data.batches import Batcher
from clbench.data.feature_cache import FeatureCache
from clbench.data.tasks import Places
from clbench.evaluate.meter import Meter
from clbench.records.progress import Progress
from clbench.records.spec import RunOptions
from clbench.runs.loop import Loop
from clbench.runs.parts import Parts


def assembled(parts: Parts, run: RunOptions, places: Places, progress: Progress, meter: Meter) -> Loop:
    """Return the loop of a run that keeps nothing yet."""
    stream = parts.stream
    batcher = Batcher(
        stream.tasks[0].train.images, parts.backbone.preprocessing, stream.augment, parts.device
    )
    cache = FeatureCache(
        batcher,
        batch_size=run.eval_batch_size,
        folder=places.cache_dir / "features",
        precision=run.precision,
        account=meter,
        ranks=parts.backbone.ranks,
    )
    return Loop(
        parts.strategy,
        stream,
        batcher,
        parts.seeds,
        meter,
        run,
        progress,
        cache=None if run.exact else cache,
        fewer=parts.fewer,
    )
