"""Do all runs of one command that are not there yet, one after another or several at a time, and sum up."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clbench.cli.course_table import CourseTable
from clbench.cli.live import watched
from clbench.cli.outcome import outcome
from clbench.cli.stopping import end_at_once_next_time
from clbench.cli.terminal import console, say
from clbench.data.tasks import Places
from clbench.records.record import Record
from clbench.records.spec import RunSpec
from clbench.report.groups import distinct_labels, group_key
from clbench.scale.course import Course
from clbench.scale.plan import Planned, planned
from clbench.scale.pool import run_all, threads_of_each
from clbench.scale.worker import Job, do


@dataclass(frozen=True)
class Wanted:
    """What was asked for beside the specs."""

    out: Path
    places: Places
    command: str  # as it was typed
    loggers: tuple[str, ...] = ()
    num_jobs: int = 1  # runs at a time
    again: bool = False  # do also what is there


def run_many(specs: Sequence[RunSpec], wanted: Wanted) -> tuple[list[Record], list[Course]]:
    """Do what is left of the runs; return the finished records in the order of the specs, and the failures.

    What is done already, and how to go on if it is stopped, is said on stderr.
    """
    plan = planned(specs, wanted.out, again=wanted.again)
    courses = _courses(plan)
    left = [number for number, each in enumerate(plan) if not each.is_finished]
    _say_what_is_left(plan, wanted)
    if min(wanted.num_jobs, len(left)) > 1:
        _several_at_a_time(plan, left, courses, wanted)
    else:
        _one_after_another(plan, left, courses, wanted)
    done = [course.folder for course in courses if course.state in ("finished", "there") and course.folder]
    return [Record.open(folder) for folder in done], [each for each in courses if each.state == "failed"]


def say_failures(failed: Sequence[Course], num_runs: int) -> None:
    """Say which runs failed and why, and show the traceback of what is no mistake of the user's."""
    for course in failed:
        if course.details:
            sys.stderr.write(f"{course.details.rstrip()}\n")
    for course in failed:
        say(f"failed: {course.label}: {course.reason}")
    say(f"error: {len(failed)} of {num_runs} runs failed; the same command tries them again")


def _courses(plan: Sequence[Planned]) -> list[Course]:
    kinds = {group_key(each.spec): each.spec for each in plan}
    labels = dict(zip(kinds, distinct_labels(list(kinds.values())), strict=True))
    courses = []
    for each in plan:
        course = Course(f"{labels[group_key(each.spec)]} seed {each.spec.run.seed}")
        if each.record and each.is_finished:
            course.state, course.folder = "there", each.record.path
        courses.append(course)
    return courses


def _say_what_is_left(plan: Sequence[Planned], wanted: Wanted) -> None:
    done = sum(each.is_finished for each in plan)
    stopped = sum(each.record is not None for each in plan) - done
    if done:
        say(f"{done} of {len(plan)} already finished in {wanted.out} (--again runs them anew)")
    if stopped:
        say(f"{stopped} of {len(plan)} stopped before, and gone on with")


def _job(each: Planned, wanted: Wanted) -> Job:
    folder = each.record.path if each.record else None
    return Job(each.spec, wanted.out, wanted.places, folder, wanted.command, wanted.loggers)


def _one_after_another(
    plan: Sequence[Planned], left: Sequence[int], courses: Sequence[Course], wanted: Wanted
) -> None:
    for number in left:
        named = courses[number].label
        say(f"[{number + 1}/{len(plan)}] {named}")
        with watched(wanted.places.data_dir, is_one_of_many=True) as live:
            record = do(_job(plan[number], wanted), courses[number].hear, live)
        if record:
            console().print(outcome(record), crop=False)
        else:
            say(f"failed: {courses[number].reason}")


def _several_at_a_time(
    plan: Sequence[Planned], left: Sequence[int], courses: Sequence[Course], wanted: Wanted
) -> None:
    num_processes = min(wanted.num_jobs, len(left))
    threads = threads_of_each(num_processes)
    say(
        f"{num_processes} at a time, with {threads} thread{'s' if threads > 1 else ''} each"
        " (numbers are equal bit for bit only under an equal number of threads)"
    )
    try:
        with CourseTable(courses, console(stderr=True)) as table:
            run_all(
                [_job(plan[number], wanted) for number in left],
                num_processes=num_processes,
                num_threads=threads,
                hear=lambda job, *message: table.hear(left[job], *message),
                tick=table.draw,
            )
    except KeyboardInterrupt:
        end_at_once_next_time()
        done = sum(course.state in ("finished", "there") for course in courses)
        say(f"stopped; {done} of {len(plan)} finished; the same command goes on with what is left")
        raise
