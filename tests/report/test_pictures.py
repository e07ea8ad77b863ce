"""Show that a picture draws what its records say, at known places, and says so where they say nothing."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from clbench.errors import UserError
from clbench.evaluate.metrics.calibration import expected_calibration_error
from clbench.evaluate.metrics.representation import linear_cka, representation_drift
from clbench.records.record import Record
from clbench.records.spec import Part, RunOptions, RunSpec
from clbench.report import pictures
from clbench.report.groups import Group
from clbench.report.pictures import NoPictureError, Picture, Point
from clbench.report.pictures.bands import spread
from clbench.report.pictures.confusion import blocks, confusion_shares
from clbench.report.pictures.pareto import cost_column, unit_of
from clbench.report.pictures.style import shortened
from clbench.report.units import quantity

NAN = math.nan
GOLDEN = [[0.9], [0.7, 0.9], [0.6, 0.5, 0.9], [0.55, 0.4, 0.3, 0.9]]  # A_T = .5375, F = .4833
LATE_PEAK = [[0.9], [0.95, 0.8], [0.6, 0.7, 0.9]]  # F = .225
IMPROVING = [[0.5], [0.6, 0.8], [0.7, 0.85, 0.9]]  # F = -.075
ONE_OF_ONE = {  # each picture, of one group
    "accuracy_matrix": pictures.accuracy_matrix,
    "matrices": lambda group: pictures.matrices([group]),
    "accuracy_curve": lambda group: pictures.accuracy_curve([group]),
    "forgetting_curve": lambda group: pictures.forgetting_curve([group]),
    "anytime": pictures.anytime,
    "stability_gap": lambda group: pictures.stability_gap([group]),
    "confusion": pictures.confusion,
    "pareto": lambda group: pictures.pareto([group]),
    "stored_bytes": lambda group: pictures.stored_bytes([group]),
    "calibration": lambda group: pictures.calibration([group]),
    "drift": pictures.drift,
}
OF_MANY = {
    name: getattr(pictures, name)
    for name in (
        *("matrices", "accuracy_curve", "forgetting_curve", "stability_gap"),
        *("pareto", "stored_bytes", "calibration"),
    )
}


def make_group(
    folder: Path,
    label: str = "lae-adapter",
    matrices: Sequence[Sequence[Sequence[float]]] = (GOLDEN,),
    *,
    classes: Sequence[Sequence[int]] | None = None,
    costs: Sequence[dict[str, Any]] | None = None,
    log: dict[str, Any] | None = None,
    looks: Sequence[tuple[int, ...]] = (),
    features: Sequence[NDArray[np.float64]] = (),
) -> Group:
    """Write runs of one spec, a matrix a seed, and return their group."""
    records = []
    for seed, rows in enumerate(matrices):
        spec = RunSpec(
            stream=Part(name="split-digits"),
            strategy=Part(name="lae", options={"label": label}),
            backbone=Part(name="vit-micro"),
            petl=Part(name="adapter"),
            run=RunOptions(seed=seed, eval_every=5),
        )
        record = Record.create(folder, spec)
        num_tasks = len(rows)
        square = [[*row, *[None] * (num_tasks - len(row))] for row in rows]
        of_task = classes or [[2 * task, 2 * task + 1] for task in range(num_tasks)]
        names = [f"class {number}" for number in range(1 + max(map(max, of_task)))]
        about = {"accuracy": square, "classes_of_task": of_task, "class_names": names}
        record.write_json("matrix.json", about)
        record.write_json("metrics.json", {"accuracy": float(np.mean(rows[-1]))})
        record.write_json("costs.json", costs[seed] if costs else {})
        if log:
            write_log(record, num_tasks - 1, **log)
        if looks:
            record.write_anytime(look_columns(looks))
        for after, each in enumerate(features):
            about = {name: torch.zeros(len(each), dtype=torch.int64) for name in ("labels", "tasks")}
            tensors = {"features": torch.from_numpy(each), "is_test": torch.ones(len(each)) == 1, **about}
            record.write_representations(after, tensors)
        records.append(record)
    return Group(label, records)


def write_log(
    record: Record,
    after: int,
    label: Sequence[int],
    prediction: Sequence[int],
    confidence: Sequence[float] | None = None,
) -> None:
    """A log of the last evaluation; what does not matter here is 0."""
    zeros = np.zeros(len(label), dtype=np.int64)
    known = np.array(confidence if confidence is not None else [0.5] * len(label))
    columns = {"after_task": zeros + after, "task": zeros, "row": zeros, "label": np.array(label)}
    columns |= {"prediction": np.array(prediction), "masked_prediction": zeros}
    record.write_predictions(after, {**columns, "confidence": known, "label_score": known})


def look_columns(looks: Sequence[tuple[int, ...]]) -> dict[str, NDArray[Any]]:
    """Columns of looks: (step, task being learnt, task looked at, hits of ten, exact)."""
    step, in_task, task, hits, exact = np.array(looks).T
    num = np.full(len(looks), 10)
    return dict(step=step, images=step, in_task=in_task, task=task, hits=hits, num=num, exact=exact)


TWO_TASKS = [  # the first falls from 8 of 10 to 2, and comes back to 6
    *((5, 0, 0, 5, 0), (10, 0, 0, 8, 0), (10, 0, 0, 8, 1)),
    *((15, 1, 0, 2, 0), (15, 1, 1, 4, 0)),
    *((20, 1, 0, 6, 0), (20, 1, 1, 9, 0), (20, 1, 0, 6, 1), (20, 1, 1, 9, 1)),
]
COSTS = {"flops": {"train": 2e12}, "stored_bytes": {"head": 100, "petl": 300, "total": 400}}
FEATURES = [np.random.default_rng(0).normal(size=(12, 5)) * size for size in (1, 2)]
FEATURES.append(FEATURES[0] + np.random.default_rng(1).normal(size=(12, 5)))


def whole_group(folder: Path, label: str = "lae-adapter", num_seeds: int = 1) -> Group:
    """Write runs in which every picture finds its data, and return their group."""
    return make_group(
        folder,
        label,
        [[[0.8], [0.6, 0.9]]] * num_seeds,
        costs=[COSTS] * num_seeds,
        log={"label": [0, 1, 2, 3], "prediction": [0, 1, 2, 2], "confidence": [0.9, 0.8, 0.3, 0.6]},
        looks=TWO_TASKS,
        features=FEATURES,
    )


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Group]:
    return partial(make_group, tmp_path)


@pytest.fixture
def whole(tmp_path: Path) -> Callable[..., Group]:
    return partial(whole_group, tmp_path)


@pytest.fixture(scope="module")
def thirty(tmp_path_factory: pytest.TempPathFactory) -> list[Group]:
    folder = tmp_path_factory.mktemp("thirty")
    return [whole_group(folder, f"a-group-with-number-{number}") for number in range(30)]


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> list[Group]:
    folder = tmp_path_factory.mktemp("twins")
    return [whole_group(folder, num_seeds=2) for _ in range(2)]


def line(picture: Picture, name: str, axes: int = 0) -> tuple[list[float], list[float]]:
    """The places of the line with a label, without what is not known."""
    drawn = next(each for each in picture.figure.axes[axes].get_lines() if each.get_label() == name)
    across, along = (np.asarray(each, dtype=float) for each in drawn.get_data())
    return across[~np.isnan(along)].tolist(), along[~np.isnan(along)].tolist()


def texts(picture: Picture) -> list[str]:
    return [text.get_text() for text in picture.figure.axes[0].texts]


def legend(picture: Picture) -> list[str]:
    return [text.get_text() for legend in picture.figure.legends for text in legend.get_texts()]


def image(picture: Picture, axes: int = 0) -> NDArray[np.float64]:
    """The numbers of the first heatmap, NaN where it is blank."""
    return picture.figure.axes[axes].images[0].get_array().filled(NAN)


def test_a_matrix_shows_each_known_accuracy_and_leaves_the_others_blank(make: Callable[..., Group]) -> None:
    picture = pictures.accuracy_matrix(make(matrices=[[[0.5], [NAN, 1.0]], [[0.7], [0.2, 1.0]]]))
    assert texts(picture) == [
        "60.0",
        "100",
    ]  # the mean of two seeds; of the cell that one lacks there is none
    np.testing.assert_allclose(image(picture), [[60, NAN], [NAN, 100]])
    assert picture.title == "split-digits · lae-adapter · vit-micro · mean over n = 2 seeds"
    axes, scale = picture.figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("tested on task", "after task")
    assert scale.get_ylabel() == "accuracy (%)"


def test_a_matrix_of_many_tasks_has_no_numbers_and_few_ticks(make: Callable[..., Group]) -> None:
    picture = pictures.accuracy_matrix(make(matrices=[[[0.5] * (task + 1) for task in range(50)]]))
    assert texts(picture) == []
    ticks = [tick.get_text() for tick in picture.figure.axes[0].get_xticklabels()]
    assert ticks == ["5", "10", "15", "20", "25", "30", "35", "40", "45", "50"]
    assert max(picture.figure.get_size_inches()) < 10


def test_matrices_stand_side_by_side_in_the_given_order(
    make: Callable[..., Group], thirty: list[Group]
) -> None:
    picture = pictures.matrices([*thirty, make("unknown", [[[NAN]]])])
    axes = picture.figure.axes[0]
    assert len(axes.images) == 24
    assert texts(picture) == [group.label for group in thirty[:24]]
    assert picture.title.endswith("mean over the seeds; the first 24 of 30 groups; 1 group has no data")
    boxes = [each.get_extent() for each in axes.images]  # left, right, bottom, top
    apart = [a[1] <= b[0] or b[1] <= a[0] or a[2] <= b[3] or b[2] <= a[3] for a, b in combinations(boxes, 2)]
    assert all(apart)


def test_accuracy_on_the_tasks_seen_is_that_of_the_golden_example(make: Callable[..., Group]) -> None:
    picture = pictures.accuracy_curve([make()])
    across, along = line(picture, "lae-adapter (n = 1)")
    assert across == [2, 4, 6, 8]  # classes
    assert along == pytest.approx([90, 80, 200 / 3, 53.75])
    assert picture.figure.axes[0].get_xlabel() == "classes seen"


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [(GOLDEN, [20, 35, 145 / 3]), (LATE_PEAK, [-5, 22.5]), (IMPROVING, [-10, -7.5])],
)
def test_forgetting_after_each_task_is_the_drop_from_the_best(
    make: Callable[..., Group], matrix: list[list[float]], expected: list[float]
) -> None:
    picture = pictures.forgetting_curve([make(matrices=[matrix])])
    across, along = line(picture, "lae-adapter (n = 1)")
    assert across == [4, 6, 8][: len(expected)]
    assert along == pytest.approx(expected)
    assert picture.figure.axes[0].get_ylabel() == "mean forgetting of earlier tasks (points)"


def test_a_band_is_one_standard_deviation_around_the_mean(make: Callable[..., Group]) -> None:
    picture = pictures.accuracy_curve([make(matrices=[[[0.4], [0.4, 0.4]], [[0.6], [0.8, 0.8]]])])
    assert line(picture, "lae-adapter (n = 2)")[1] == pytest.approx([50, 60])
    (band,) = picture.figure.axes[0].collections
    corners = {(x, round(y, 6)) for x, y in band.get_paths()[0].vertices}
    std = [math.sqrt(200), math.sqrt(800)]  # of 40 and 60, of 40 and 80
    for classes, mean, each in zip((2, 4), (50, 60), std, strict=True):
        assert {(classes, round(mean - each, 6)), (classes, round(mean + each, 6))} <= corners
    assert picture.title.endswith("mean ± standard deviation over n seeds")


def test_a_learner_that_was_tested_once_is_a_level(make: Callable[..., Group]) -> None:
    joint = make("joint", [[[NAN], [0.7, 0.9]]])
    picture = pictures.accuracy_curve([make("naive", [[[0.9], [0.1, 0.9]]]), joint])
    assert line(picture, "joint (n = 1)") == ([4], [80])
    level = [each for each in picture.figure.axes[0].get_lines() if list(each.get_ydata()) == [80, 80]]
    assert len(level) == 1
    picture = pictures.forgetting_curve([make("naive", [[[0.9], [0.1, 0.9]]]), joint])
    assert legend(picture) == ["naive (n = 1)"]  # nothing is known of what joint training forgets
    assert picture.title.endswith("one seed each; 1 group has no data")


@pytest.mark.parametrize("num_groups", [1, 7, 30])
@pytest.mark.parametrize("name", OF_MANY)
def test_names_cover_no_data_and_each_other_neither(thirty: list[Group], name: str, num_groups: int) -> None:
    picture = OF_MANY[name](thirty[:num_groups])
    figure = picture.figure
    figure.draw_without_rendering()
    frames = [axes.get_window_extent() for axes in figure.axes]
    for each in figure.legends:
        box = each.get_window_extent()
        assert not any(box.overlaps(frame) for frame in frames)
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.x1
    if name in ("accuracy_curve", "forgetting_curve", "stability_gap") and num_groups > 7:
        names = [text.get_window_extent() for text in figure.axes[0].texts]
        assert len(names) == num_groups
        assert not any(box.overlaps(other) for box, other in combinations([*names, *frames], 2))
        assert max(box.x1 for box in names) <= figure.bbox.x1


@pytest.mark.parametrize("num_groups", [1, 12])
@pytest.mark.parametrize("name", OF_MANY)
def test_long_names_leave_room_for_the_data(thirty: list[Group], name: str, num_groups: int) -> None:
    long = Group("lae-adapter " + 20 * "learning_rate=0.1 ", thirty[0].records)
    others = thirty[1:num_groups]
    figure = OF_MANY[name]([long, *others]).figure
    figure.draw_without_rendering()
    assert figure.get_figwidth() < 14
    assert figure.axes[0].get_window_extent().width > figure.dpi * (1 if name == "matrices" else 3.5)
    for legend in figure.legends:
        assert legend.get_window_extent().x0 >= 0


def test_a_shortened_name_keeps_both_ends_and_is_no_formula() -> None:
    assert shortened("lae-adapter", 11) == "lae-adapter"
    assert shortened("0123456789", 6) == "01…789"
    assert shortened("$x$") == r"\$x\$"


def test_names_at_the_ends_are_in_the_order_of_the_ends(make: Callable[..., Group]) -> None:
    last = [0.3, 0.9, 0.31, 0.32, 0.5, 0.1, 0.2, 0.4, 0.33]
    groups = [make(f"ends at {value}", [[[0.9], [value, value]]]) for value in last]
    names = pictures.accuracy_curve(groups).figure.axes[0].texts
    ordered = [text.get_text() for text in sorted(names, key=lambda text: text.get_position()[1])]
    assert ordered == [f"ends at {value} (n = 1)" for value in sorted(last)]


@pytest.mark.parametrize("draw", [pictures.accuracy_curve, pictures.forgetting_curve])
def test_a_leader_starts_at_the_end_of_its_line(
    make: Callable[..., Group], draw: Callable[[Sequence[Group]], Picture]
) -> None:
    groups = [make(f"{last}", [[[0.9], [0.5, 0.5], [last] * 3]]) for last in np.linspace(0.1, 0.8, 8)]
    lines = draw(groups).figure.axes[0].get_lines()
    ends = [each.get_xydata()[-1] for each in lines if "(n = 1)" in str(each.get_label())]
    leaders = [each for each in lines if each.get_alpha() == 0.5]
    starts = [each.get_transform().transform(each.get_xydata()[0]) for each in leaders]
    assert len(ends) == 8
    np.testing.assert_allclose(starts, leaders[0].axes.transData.transform(ends))


@pytest.mark.parametrize(
    ("heights", "expected"),
    [
        ([0.5, 0.1, 0.9], [0.5, 0.1, 0.9]),  # far enough apart already
        ([0.5, 0.5], [0.55, 0.45]),  # as far from where they were; the first below the second or above it
        ([1.0, 1.0, 0.9], [0.9, 1.0, 0.8]),  # inside
        ([0.0, 0.0], [0.0, 0.1]),
    ],
)
def test_spread_moves_heights_apart(heights: list[float], expected: list[float]) -> None:
    moved = spread(np.array(heights), 0.1)
    np.testing.assert_allclose(sorted(moved), sorted(expected), atol=1e-12)
    assert np.diff(np.sort(moved)).min() >= 0.1 - 1e-12
    assert all(
        moved[a] <= moved[b] for a in range(len(moved)) for b in range(len(moved)) if heights[a] < heights[b]
    )


def test_looks_are_drawn_with_the_end_of_each_task(whole: Callable[..., Group]) -> None:
    picture = pictures.anytime(whole(num_seeds=2))
    assert line(picture, "their mean") == ([5, 10, 15, 20], pytest.approx([50, 80, 30, 75]))
    assert line(picture, "their mean on all test images") == ([10, 20], pytest.approx([80, 75]))
    lines = picture.figure.axes[0].get_lines()
    ends = [each.get_xdata()[0] for each in lines if list(each.get_ydata()) == [0, 1]]
    assert ends == [10, 20]
    assert texts(picture) == ["task 1", "task 2"]
    assert len(picture.figure.axes[0].collections) == 1  # the band of two seeds


def test_the_gap_is_aligned_at_the_end_of_the_task(whole: Callable[..., Group]) -> None:
    picture = pictures.stability_gap([whole()])
    across, along = line(picture, "lae-adapter (n = 1)")
    assert across == [0, 5, 10]  # steps since 10
    assert along == pytest.approx([0, -60, -20])  # 8, 2, 6 of 10
    dots = [each for each in picture.figure.axes[0].get_lines() if each.get_marker() == "o"]
    assert [(dot.get_xdata()[0], round(dot.get_ydata()[0])) for dot in dots] == [(5, -60)]


def test_the_gap_is_the_mean_over_old_tasks_as_far_as_all_were_followed(make: Callable[..., Group]) -> None:
    looks = [(step, step // 10 - 1, task, hits, exact)  # three tasks of ten steps, looked at after each
             for step, of_tasks in ((10, [9]), (20, [5, 7]), (30, [1, 6, 9]))
             for task, hits in enumerate(of_tasks) for exact in (0, 1)]  # fmt: skip
    looks += [(15, 1, 0, 3, 0), (25, 2, 0, 4, 0), (25, 2, 1, 3, 0)]
    picture = pictures.stability_gap([make(matrices=[[[0.9], [0.5, 0.7], [0.1, 0.6, 0.9]]], looks=looks)])
    across, along = line(picture, "lae-adapter (n = 1)")
    assert across == [0, 5, 10]  # the second task was followed for ten steps only
    assert along == pytest.approx([0, (-60 - 40) / 2, (-40 - 10) / 2])


def test_confusion_is_normalised_by_row_and_blank_without_images(make: Callable[..., Group]) -> None:
    log = {"label": [0, 0, 0, 0, 1, 3, 3], "prediction": [0, 0, 1, 3, 1, 2, 3]}
    group = make(matrices=[[[0.5], [0.5, 0.5]]] * 2, log=log)
    expected = [[0.5, 0.25, 0, 0.25], [0, 1, 0, 0], [NAN] * 4, [0, 0, 0.5, 0.5]]
    np.testing.assert_allclose(confusion_shares(group), expected)
    picture = pictures.confusion(group)
    np.testing.assert_allclose(image(picture), 100 * np.array(expected))
    assert texts(picture) == ["50", "25", "25", "100", "50", "50"]
    names = [tick.get_text() for tick in picture.figure.axes[0].get_yticklabels()]
    assert names == ["class 0", "class 1", "class 2", "class 3"]
    outline = picture.figure.axes[0].get_lines()[0].get_xydata()
    corners = {tuple(corner) for corner in outline if not np.isnan(corner).any()}
    first = {(-0.5, -0.5), (1.5, -0.5), (1.5, 1.5), (-0.5, 1.5)}
    assert corners == first | {(1.5, 1.5), (3.5, 1.5), (3.5, 3.5), (1.5, 3.5)}


def test_confusion_of_many_classes_names_the_tasks(make: Callable[..., Group]) -> None:
    classes = [list(range(start, start + 10)) for start in (0, 10, 20)]
    log = {"label": list(range(30)), "prediction": [0] * 30}
    group = make(matrices=[[[0.5], [0.5] * 2, [0.5] * 3]], classes=classes, log=log)
    axes = pictures.confusion(group).figure.axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "2", "3"]
    assert axes.get_xticks().tolist() == [4.5, 14.5, 24.5]
    assert axes.get_xlabel() == "predicted class, by task"
    assert not axes.texts


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        ([[0, 1], [2, 3, 4]], [(0, 1), (2, 4)]),
        ([[0, 1], [0, 1]], []),  # domains share their classes
        ([[0, 2], [1, 3]], []),  # no blocks
        ([[0, 1], [], [2]], [(0, 1), (2, 2)]),  # a segment without new classes
    ],
)
def test_blocks_are_of_tasks_that_share_no_classes(
    tasks: list[list[int]], expected: list[tuple[int, int]]
) -> None:
    assert blocks(tasks) == expected


def accurate(make: Callable[..., Group], label: str, accuracy: float, *flops: float) -> Group:
    """A group with one accuracy, and a cost a seed."""
    return make(label, [[[accuracy]]] * len(flops), costs=[{"flops": {"train": each}} for each in flops])


def test_the_front_is_drawn_as_steps_to_the_right_edge(make: Callable[..., Group]) -> None:
    groups = [
        accurate(make, "cheap", 0.4, 1e9),
        accurate(make, "beaten", 0.3, 1e10),
        accurate(make, "dear", 0.8, 1e11),
    ]
    picture = pictures.pareto(groups)
    axes = picture.figure.axes[0]
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == "training operations (FLOP, logarithmic)"
    right = axes.get_xlim()[1]
    steps = [list(zip(*each.get_data(), strict=True)) for each in axes.get_lines() if each.get_alpha()]
    assert steps == [
        [(1e9, 40), (1e11, 40)],
        [(1e11, 40), (1e11, 80)],
        [(1e11, 80), (right, 80)],
    ]
    assert set(texts(picture)) - {""} == {"cheap", "beaten", "dear"}
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1 GFLOP", "10 GFLOP", "100 GFLOP"]


def test_error_bars_are_a_standard_deviation_over_the_seeds(make: Callable[..., Group]) -> None:
    picture = pictures.pareto([accurate(make, "lae", 0.5, 1e9, 3e9)])
    bars = [each.get_xdata() for each in picture.figure.axes[0].get_lines() if len(each.get_xdata()) == 2]
    std = math.sqrt(2) * 1e9
    assert any(list(bar) == pytest.approx([2e9 - std, 2e9 + std]) for bar in bars)


def test_what_costs_nothing_is_a_line_across_and_what_is_unknown_is_said(make: Callable[..., Group]) -> None:
    groups = [accurate(make, "free", 0.4, 0), accurate(make, "paid", 0.5, 1e9), make("unknown", [[[0.5]]])]
    picture = pictures.pareto(groups)
    levels = [each for each in picture.figure.axes[0].get_lines() if each.get_linestyle() == ":"]
    assert [level.get_ydata()[0] for level in levels] == [40]
    assert set(texts(picture)) == {"free", "paid"}
    assert picture.title.endswith("1 group has no data")


def test_names_of_points_cover_neither_names_nor_points(make: Callable[..., Group]) -> None:
    generator = np.random.default_rng(0)
    points = [
        Point(f"a rather long name {number}", 10 ** generator.normal(6, 0.5), generator.normal(50, 5))
        for number in range(60)
    ]
    tick = quantity
    picture = pictures.scatter(points, label="cost", tick=tick, title="title", below="one seed")
    axes = picture.figure.axes[0]
    picture.figure.draw_without_rendering()
    names = [text.get_window_extent() for text in axes.texts if text.get_text()]
    assert len(names) > 50
    assert not any(first.overlaps(second) for first, second in combinations(names, 2))
    places = axes.transData.transform([(point.cost, point.accuracy) for point in points])
    assert not any(box.contains(*place) for box in names for place in places)
    missing = len(points) - len(names)
    assert (f"points without room for a name: {missing}" in axes.get_xlabel()) == (missing > 0)


@pytest.mark.parametrize(
    ("key", "unit", "title"),
    [
        ("stored_bytes.total", "B", "stored bytes"),
        ("seconds", "s", "wall time"),
        ("parameters.trainable", "", "trainable parameters"),
        ("flops.evaluate_per_image", "FLOP", "flops evaluate per image"),
        ("memory.accelerator.peak", "B", "memory accelerator peak"),
        ("energy", "J", "energy"),
    ],
)
def test_a_cost_has_its_unit_and_title(key: str, unit: str, title: str) -> None:
    assert (unit_of(key), cost_column(key).title) == (unit, title)


def bars(picture: Picture) -> dict[str, list[tuple[float, float, float]]]:
    """Place, start and width of the bars of each kind, in the order of the legend."""
    containers = picture.figure.axes[0].containers
    return {
        each.get_label(): [
            (round(bar.get_y() + bar.get_height() / 2), bar.get_x(), bar.get_width()) for bar in each
        ]
        for each in containers
    }


def test_bars_are_stacked_by_kind_the_shortest_on_top(make: Callable[..., Group]) -> None:
    kinds = {"modules": 300, "head": 100, "exemplars": 0, "total": 400, "model-delta": 400}
    other = {"modules": 50, "head": 100, "exemplars": 1000, "total": 1150, "model-delta": 150}
    groups = [
        make("large", [GOLDEN], costs=[{"stored_bytes_by_kind": other, "stored_bytes": {"total": 1150}}]),
        make("small", [GOLDEN], costs=[{"stored_bytes_by_kind": kinds, "stored_bytes": {"total": 400}}]),
    ]
    picture = pictures.stored_bytes(groups)
    assert bars(picture) == {
        "modules": [(0, 0, 300), (1, 0, 50)],
        "head": [(0, 300, 100), (1, 50, 100)],
        "exemplars": [(1, 150, 1000)],
    }
    axes = picture.figure.axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["small", "large"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # place 0 is on top
    assert [text.strip() for text in texts(picture)] == ["400 B", "1.15 kB"]


def test_parts_stand_in_for_kinds_and_the_smallest_of_many_are_one(make: Callable[..., Group]) -> None:
    parts = {f"part {number}": 10 * (10 - number) for number in range(9)}
    total = sum(parts.values())
    group = make(costs=[{"stored_bytes": {**parts, "total": total}}])
    drawn = bars(pictures.stored_bytes([group]))
    assert list(drawn) == [*(f"part {number}" for number in range(6)), "other"]
    assert drawn["other"] == [(0, total - 90, 90)]  # 40 + 30 + 20


def test_reliability_is_accuracy_over_confidence_in_bins(make: Callable[..., Group]) -> None:
    log = {"label": [0, 0, 0, 0, 1], "prediction": [0, 1, 0, 0, 0]}
    group = make(log={**log, "confidence": [0.62, 0.64, 0.95, 0.95, NAN]})
    error = 100 * expected_calibration_error(group.results[0])
    assert error == pytest.approx(100 * (2 * abs(0.63 - 0.5) + 2 * abs(0.95 - 1)) / 4)
    picture = pictures.calibration([group])
    name = f"lae-adapter: ECE {error:.1f} %"
    assert line(picture, name) == (pytest.approx([63, 95]), pytest.approx([50, 100]))
    assert legend(picture) == [name]
    (steps,) = picture.figure.axes[1].patches
    values, edges, _ = steps.get_data()
    assert values[[9, 14]].tolist() == [50, 50]  # (60, 66.7] and (93.3, 100] of the four that are known
    assert values.sum() == pytest.approx(100)
    np.testing.assert_allclose(edges, np.linspace(0, 100, 16))


def test_a_calibrated_learner_lies_on_the_diagonal(make: Callable[..., Group]) -> None:
    confidence = [0.25] * 4 + [0.75] * 4
    log = {"label": [0] * 8, "prediction": [0, 1, 1, 1, 0, 0, 0, 1], "confidence": confidence}
    across, along = line(pictures.calibration([make(log=log)]), "lae-adapter: ECE 0.0 %")
    assert across == along == pytest.approx([25, 75])


def test_drift_shows_the_similarity_of_any_two_tasks_and_each_step(whole: Callable[..., Group]) -> None:
    group = whole()
    picture = pictures.drift(group)
    expected = [[linear_cka(first, second) for second in FEATURES] for first in FEATURES]
    np.testing.assert_allclose(image(picture), expected)
    assert expected[0][1] == pytest.approx(1)  # twice as long is the same representation
    across, along = picture.figure.axes[1].get_lines()[0].get_data()
    assert across.tolist() == [1, 2]
    assert along.tolist() == pytest.approx(representation_drift(group.results[0].representations))
    assert along[0] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ONE_OF_ONE)
def test_equal_numbers_give_equal_bytes(twins: list[Group], name: str) -> None:
    first, second = (ONE_OF_ONE[name](group) for group in twins)
    assert first.png(dpi=40) == second.png(dpi=40)
    assert first.title.startswith("split-digits · ")


def test_more_dots_make_a_larger_picture(twins: list[Group]) -> None:
    picture = pictures.accuracy_curve(twins[:1])
    widths = [int.from_bytes(picture.png(dpi=dpi)[16:20], "big") for dpi in (50, 100)]
    assert widths == [320, 640]


@pytest.mark.parametrize("name", ONE_OF_ONE)
def test_a_picture_without_data_says_why_in_one_line(make: Callable[..., Group], name: str) -> None:
    empty = make(matrices=[[[NAN], [NAN, NAN]]])
    with pytest.raises(NoPictureError) as error:
        ONE_OF_ONE[name](empty)
    assert str(error.value)
    assert "\n" not in str(error.value)


def test_a_picture_is_saved_in_the_format_of_its_name(whole: Callable[..., Group], tmp_path: Path) -> None:
    picture = pictures.accuracy_curve([whole()])
    for name, start in (("a.png", b"\x89PNG"), ("a.pdf", b"%PDF"), ("a.SVG", b"<?xml")):
        picture.save(tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
    with pytest.raises(UserError, match=r"cannot save a picture as 'a\.doc'; it may end in .*png"):
        picture.save(tmp_path / "a.doc")
    assert picture._repr_png_() == picture.png(dpi=110)


def test_importing_the_pictures_loads_no_matplotlib() -> None:
    code = "import sys, clbench.report.pictures; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
