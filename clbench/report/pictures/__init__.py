"""Draw what records say: each picture is a function of groups of runs, and returns a ``Picture``.

Importing this loads no matplotlib.
"""

from clbench.report.pictures.accuracy_matrix import accuracy_matrix, matrices
from clbench.report.pictures.anytime import anytime
from clbench.report.pictures.calibration import calibration
from clbench.report.pictures.confusion import confusion
from clbench.report.pictures.curves import accuracy_curve, forgetting_curve
from clbench.report.pictures.drift import drift
from clbench.report.pictures.equal_bytes import equal_bytes
from clbench.report.pictures.pareto import pareto, pareto_deployed
from clbench.report.pictures.picture import NoPictureError, Picture
from clbench.report.pictures.scatter import Point, scatter
from clbench.report.pictures.stability_gap import stability_gap
from clbench.report.pictures.stored_bytes import stored_bytes

__all__ = [
    "NoPictureError",
    "Picture",
    "Point",
    "accuracy_curve",
    "accuracy_matrix",
    "anytime",
    "calibration",
    "confusion",
    "drift",
    "equal_bytes",
    "forgetting_curve",
    "matrices",
    "pareto",
    "pareto_deployed",
    "scatter",
    "stability_gap",
    "stored_bytes",
]
