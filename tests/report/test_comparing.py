"""Show that groups of runs are compared as they should be: intervals, paired tests, ranks, fronts."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import clbench
from clbench.records.record import Record
from clbench.report.comparing import holm, interval, mean_ranks, paired_tests, pareto_front
from clbench.report.exports import write_comparison
from clbench.report.groups import Group, group_runs
from clbench.report.markdown import markdown_table
from clbench.report.warnings import warnings

NAN = math.nan
MakeRun = Callable[..., Record]
MakeGroups = Callable[[Path, dict[str, list[float]]], list[Group]]


@pytest.fixture
def make_groups(make_run: MakeRun) -> MakeGroups:
    """A function that makes groups with one run a number, seeds 0, 1, ..."""

    def make(out: Path, table: dict[str, list[float]]) -> list[Group]:
        runs = [
            make_run(out, strategy, seed, accuracy, forgetting=accuracy / 4)
            for strategy, accuracies in table.items()
            for seed, accuracy in enumerate(accuracies)
        ]
        return group_runs(runs)

    return make


def test_an_interval_is_that_of_the_t_table() -> None:
    found = interval([0.50, 0.54, 0.58])
    assert (found.mean, found.std, found.n) == (pytest.approx(0.54), pytest.approx(0.04), 3)
    half = 4.30265 * 0.04 / math.sqrt(3)  # t(0.975) with two degrees of freedom
    assert (found.low, found.high) == (pytest.approx(0.54 - half), pytest.approx(0.54 + half))


def test_one_run_has_a_mean_and_no_interval() -> None:
    found = interval([0.5])
    assert found.mean == 0.5
    assert all(math.isnan(bound) for bound in (found.std, found.low, found.high))


def test_holm_corrects_as_in_the_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    corrected = holm([0.02, NAN, 0.9])
    assert corrected[0] == pytest.approx(0.04)  # two tests, not three
    assert math.isnan(corrected[1])
    assert holm([0.8, 0.9]) == [1.0, 1.0]


def test_pairs_are_tested_seed_by_seed(tmp_path: Path, make_groups: MakeGroups) -> None:
    first, second = [0.50, 0.60, 0.70, 0.40], [0.45, 0.57, 0.66, 0.35]
    groups = make_groups(tmp_path, {"lae": first, "naive": second})
    (test,) = paired_tests(groups, "accuracy")
    assert (test.first, test.second, test.n) == ("lae-adapter", "naive-adapter", 4)
    assert test.difference == pytest.approx(np.mean(np.subtract(first, second)))
    assert test.p == pytest.approx(stats.ttest_rel(first, second).pvalue)
    assert test.p < 0.01 < stats.ttest_ind(first, second).pvalue  # unpaired, the seeds would hide it
    assert test.p_holm == test.p


def test_only_common_seeds_count_and_one_is_too_few(tmp_path: Path, make_groups: MakeGroups) -> None:
    groups = make_groups(tmp_path, {"lae": [0.5, 0.6, 0.7], "naive": [0.4]})
    (test,) = paired_tests(groups, "accuracy")
    assert test.n == 1
    assert test.difference == pytest.approx(0.1)
    assert math.isnan(test.p)
    assert math.isnan(test.p_holm)
    assert not test.is_significant


def test_the_order_of_seeds_changes_nothing(tmp_path: Path, make_groups: MakeGroups) -> None:
    table = {"lae": [0.5, 0.6, 0.9], "naive": [0.4, 0.3, 0.2]}
    groups = make_groups(tmp_path, table)
    runs = [record for group in groups for record in group.records]
    again = group_runs(reversed(runs))
    for name in ("accuracy", "forgetting"):
        assert [group.statistic(name) for group in again] == [group.statistic(name) for group in groups]
    assert paired_tests(again, "accuracy") == paired_tests(groups, "accuracy")


def test_ranks_are_means_over_seeds_and_equals_share(tmp_path: Path, make_groups: MakeGroups) -> None:
    groups = make_groups(tmp_path, {"lae": [0.9, 0.5], "naive": [0.8, 0.7], "er": [0.8, 0.1]})
    assert mean_ranks(groups, "accuracy") == {
        "er-adapter": (2.5 + 3) / 2,
        "lae-adapter": (1 + 2) / 2,
        "naive-adapter": (2.5 + 1) / 2,
    }


def test_who_does_not_know_a_number_has_no_rank_and_takes_none(
    tmp_path: Path, make_groups: MakeGroups
) -> None:
    groups = make_groups(tmp_path, {"lae": [0.9, 0.5], "simplecil": [NAN, NAN], "er": [0.8, NAN]})
    ranks = mean_ranks(groups, "accuracy")
    assert (ranks["lae-adapter"], ranks["er-adapter"]) == (1, 2)  # on the one seed that both know
    assert math.isnan(ranks["simplecil-adapter"])
    assert all(map(math.isnan, mean_ranks(groups[-1:], "accuracy").values()))


def test_the_front_holds_who_is_beaten_by_nobody(tmp_path: Path, make_run: MakeRun) -> None:
    places = {"lae": (3e9, 0.9), "naive": (1e9, 0.5), "er": (2e9, 0.4), "der": (3e9, 0.8), "ewc": (1e9, 0.5)}
    runs = [make_run(tmp_path, name, 0, worth, cost=price) for name, (price, worth) in places.items()]
    front = pareto_front(group_runs(runs), "flops.train")
    assert front == {"lae-adapter", "naive-adapter", "ewc-adapter"}


def test_runs_of_two_versions_are_two_groups_and_said(tmp_path: Path, make_run: MakeRun) -> None:
    runs = [make_run(tmp_path, "lae", 0, 0.5), make_run(tmp_path, "lae", 1, 0.7, version="0.2.0")]
    groups = group_runs(runs)
    assert [group.label for group in groups] == ["lae-adapter clbench=0.1.0", "lae-adapter clbench=0.2.0"]
    assert any(line.startswith("Not the same version of clbench: 0.1.0: lae") for line in warnings(groups))
    assert len({group.file_stem for group in groups}) == 2  # one's pictures do not take the other's place


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"hashes": {"weights": "other"}}, "The weights changed between the seeds of lae-adapter"),
        (
            {"hashes": {"strategy_source": "y"}},
            "The strategy's file changed between the seeds of lae-adapter",
        ),
        ({"num_test": 5}, "The number of tasks or of test images changed between the seeds of lae-adapter"),
    ],
)
def test_what_changed_between_seeds_is_said(
    tmp_path: Path, changed: dict[str, Any], said: str, make_run: MakeRun
) -> None:
    runs = [make_run(tmp_path, "lae", seed, 0.5) for seed in range(2)]
    assert warnings(group_runs(runs)) == []
    runs.append(make_run(tmp_path, "lae", 2, 0.5, **changed))
    assert said in warnings(group_runs(runs))


def test_weights_drawn_from_the_seed_are_no_change(tmp_path: Path, make_run: MakeRun) -> None:
    runs = [make_run(tmp_path, "lae", seed, 0.5, hashes={"weights": str(seed)}) for seed in range(3)]
    assert warnings(group_runs(runs)) == []


def test_settings_side_by_side_are_a_choice_on_test_data(tmp_path: Path, make_run: MakeRun) -> None:
    runs = [make_run(tmp_path, "lae", 0, 0.5, learning_rate=rate) for rate in (0.1, 0.2, 0.3)]
    (line,) = [line for line in warnings(group_runs(runs)) if "test data" in line]
    assert line.startswith("3 settings of lae-adapter were measured on the same test images")


def test_joint_training_is_found_by_stream_weights_and_seed(tmp_path: Path, make_run: MakeRun) -> None:
    runs = [
        make_run(tmp_path, "naive", 0, 0.5),
        make_run(tmp_path, "naive", 1, 0.4),
        make_run(tmp_path, "joint", 0, 0.8),
        make_run(tmp_path, "joint", 1, 0.9, hashes={"weights": "other"}),
    ]
    by_label = {group.label: group for group in group_runs(runs)}
    first, second = by_label["naive-adapter"].values
    assert first["gap-to-joint"] == pytest.approx(0.3)
    assert first["omega"] == pytest.approx(0.5 / 0.8)
    assert "gap-to-joint" not in second
    assert "gap-to-joint" not in by_label["joint-adapter"].values[0]
    summary = clbench.load_runs(tmp_path).summary.set_index(["group", "name"])
    assert math.isnan(summary.loc[("naive-adapter", "gap-to-joint"), "mean"])  # not of all of its seeds


def test_markdown_keeps_its_columns_and_marks_the_best(tmp_path: Path, make_groups: MakeGroups) -> None:
    groups = make_groups(tmp_path, {"lae": [0.5, 0.6], "naive": [0.1, 0.2]})
    lines = markdown_table(groups, ["a | b"]).splitlines()
    assert len({line.count("|") for line in lines[:4]}) == 1
    assert "**55.0 ± 7.1**" in lines[2]
    assert "15.0 ± 7.1" in lines[3]
    assert "**15.0" not in lines[3]
    assert lines[-1] == "- a \\| b"


def test_files_of_a_comparison_hold_the_same_numbers(tmp_path: Path, make_groups: MakeGroups) -> None:
    import pandas as pd

    groups = make_groups(tmp_path / "runs", {"lae": [0.5, 0.6], "naive": [0.1, 0.2]})
    files = write_comparison(groups, [], tmp_path / "out")
    assert {file.name for file in files} >= {
        *("runs.csv", "runs.parquet", "summary.csv", "tests.csv", "comparison.md", "comparison.tex"),
        *("accuracy-curve.png", "forgetting-curve.png", "accuracy-matrices.png", "pareto-training.png"),
    }
    runs, same = (
        pd.read_csv(tmp_path / "out" / "runs.csv"),
        pd.read_parquet(tmp_path / "out" / "runs.parquet"),
    )
    assert runs["accuracy"].tolist() == same["accuracy"].tolist() == [0.5, 0.6, 0.1, 0.2]
    summary = pd.read_csv(tmp_path / "out" / "summary.csv").set_index(["group", "name"])
    assert summary.loc[("lae-adapter", "accuracy"), "high"] == pytest.approx(interval([0.5, 0.6]).high)
    tests = pd.read_csv(tmp_path / "out" / "tests.csv")
    assert tests["difference"].tolist() == pytest.approx([0.4, 0.1])
    ranks = pd.read_csv(tmp_path / "out" / "ranks.csv").set_index("group")
    assert ranks[["accuracy", "forgetting"]].to_numpy().tolist() == [[1.0, 2.0], [2.0, 1.0]]
    fronts = pd.read_csv(tmp_path / "out" / "fronts.csv").set_index(["group", "name"])
    assert fronts.loc[("lae-adapter", "flops.training"), "on_front"]
    assert not fronts.loc[("naive-adapter", "flops.training"), "on_front"]


def test_frames_are_tidy_and_merge(tmp_path: Path, make_groups: MakeGroups) -> None:
    make_groups(tmp_path, {"lae": [0.5, 0.6], "naive": [0.1, 0.2]})
    runs = clbench.load_runs(tmp_path)
    assert len(runs) == 4
    assert runs.runs["strategy"].tolist() == ["lae", "lae", "naive", "naive"]
    assert runs.runs["run.seed"].tolist() == [0, 1, 0, 1]
    assert len(runs.matrix) == 4 * 4
    cells = runs.matrix[(runs.matrix.group == "lae-adapter") & (runs.matrix.seed == 1)]
    assert cells.accuracy.isna().sum() == 1
    assert cells[(cells.after == 1) & (cells.task == 0)].accuracy.item() == 0.6
    accuracy = runs.metrics[runs.metrics.metric == "accuracy"]
    assert accuracy.groupby("group").value.mean().to_dict() == pytest.approx(
        {"lae-adapter": 0.55, "naive-adapter": 0.15}
    )
    costs = runs.costs[runs.costs.cost == "flops.train"]
    assert len(accuracy.merge(costs, on=["run", "group", "seed"])) == 4
    assert runs.tests().difference.item() == pytest.approx(0.4)
    assert runs.ranks().to_dict() == {"lae-adapter": 1.0, "naive-adapter": 2.0}
    assert runs.ranks("flops.train").to_dict() == {"lae-adapter": 1.5, "naive-adapter": 1.5}
    assert runs.pareto("flops.train")["on the front"].sum() == 1
    assert len(runs.costs_by_task) == 0
    assert runs["lae-adapter"].seeds == [0, 1]
    with pytest.raises(clbench.UserError, match="did you mean 'lae-adapter'"):
        runs["lae-adaptr"]


def test_a_folder_without_runs_is_named(tmp_path: Path) -> None:
    with pytest.raises(clbench.UserError, match=r"no spec\.toml in it"):
        clbench.load_runs(str(tmp_path))


def test_an_older_record_is_read_and_recomputed(checkout: Path) -> None:
    folder = checkout / "tests" / "report" / "older-records"
    read, anew = clbench.load_runs(folder), clbench.load_runs(folder, recompute=True)
    old = read.metrics.set_index("metric").value
    new = anew.metrics.set_index("metric").value
    assert set(old.index) < set(new.index)
    assert "average-accuracy" not in old.index  # what its file calls average-incremental-accuracy
    assert read.groups[0].numbers("average-accuracy") == [old["average-incremental-accuracy"]]
    np.testing.assert_allclose(new[old.index], old, rtol=1e-12, equal_nan=True)
    assert new["nll"] > 0  # its log has the share of the true class
    assert math.isnan(new["brier"])  # but not the sum of squares
    assert len(read.predictions) == 24 + (24 + 18) + (24 + 18 + 18)
