"""Write numbers for people: three significant digits, a prefix, a unit, and a spread where there is one."""

from __future__ import annotations

import math

from clbench.evaluate import METRICS

PREFIXES = ("", "k", "M", "G", "T", "P", "E")
UNKNOWN = "n/a"


def percent(mean: float, std: float = math.nan) -> str:
    """Write a share in [0, 1] in percent with one decimal, without the sign: ``53.8 ± 1.2``."""
    return _with_spread(f"{100 * mean:.1f}", f"{100 * std:.1f}", mean, std)


def matrix_cell(share: float) -> str:
    """Write a share in percent in at most four characters: ``53.8``, ``100``."""
    return percent(share).replace("100.0", "100")


def metric_value(name: str, value: float) -> str:
    """Write a metric's value: a share in percent, anything else in three digits with its unit."""
    unit = METRICS[name].unit if name in METRICS else ""  # not all are, in another version's record
    if not unit or math.isnan(value):
        return percent(value)
    return f"{value:.0f} {unit}" if unit == "steps" else f"{value:.{_decimals(value)}f} {unit}"


def quantity(mean: float, std: float = math.nan, unit: str = "") -> str:
    """Write a count with an SI prefix: ``12.3 k``, ``165 ± 2 kB``, ``1.20 TFLOP``."""
    if not math.isfinite(mean):
        return UNKNOWN
    power = 0
    while abs(mean) / 1000**power >= 999.5 and power < len(PREFIXES) - 1:
        power += 1
    scaled = mean / 1000**power
    decimals = 0 if power == 0 and scaled == int(scaled) else _decimals(scaled)
    spread = "" if math.isnan(std) or std == 0 else f" ± {std / 1000**power:.{decimals}f}"
    return f"{scaled:.{decimals}f}{spread} {PREFIXES[power]}{unit}".rstrip()


def ratio(mean: float, std: float = math.nan) -> str:
    """Write how many times something is something else: ``0.53 ± 0.02``."""
    decimals = _decimals(mean)
    return _with_spread(f"{mean:.{decimals}f}", f"{std:.{decimals}f}", mean, std)


def seconds(mean: float, std: float = math.nan) -> str:
    """Write a duration in seconds: ``85.2 ± 1.3 s``."""
    decimals = _decimals(mean)
    text = _with_spread(f"{mean:.{decimals}f}", f"{std:.{decimals}f}", mean, std)
    return text if text == UNKNOWN else f"{text} s"


def _decimals(value: float) -> int:
    """Return how many decimals make three significant digits of a number below 1000."""
    if not math.isfinite(value):
        return 0
    return 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0


def _with_spread(mean_text: str, std_text: str, mean: float, std: float) -> str:
    if not math.isfinite(mean):
        return UNKNOWN
    return mean_text if math.isnan(std) else f"{mean_text} ± {std_text}"
