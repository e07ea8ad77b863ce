"""Check that a component or a metric keeps its contract: built-ins and your own alike.

Each check raises an error with a line that says what was broken: AssertionError, or PluginError where the
author's own code fails. They run on the CPU, on small generated data and a small random backbone, in seconds.
"""

from __future__ import annotations

from clbench.testing.compress_contract import check_compress
from clbench.testing.metric_contract import check_metric
from clbench.testing.petl_contract import check_petl
from clbench.testing.quant_contract import check_quant
from clbench.testing.strategy_contract import check_strategy
from clbench.testing.stream_contract import check_stream

__all__ = [
    "check_compress",
    "check_metric",
    "check_petl",
    "check_quant",
    "check_strategy",
    "check_stream",
]
