"""`evaluate.py suite`: run what is missing of a suite, then write its tables."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from qat.suite.jobs import jobs_of, suite_folder
from qat.suite.results import write_results
from qat.suite.runner import Runner
from qat.suite.spec import Suite, load_suite
from qat.suite.store import Results
from qat.system.errors import UserError
from qat.system.lock import using

RESULTS_FOLDER = Path("docs/results")


def suite(options: argparse.Namespace) -> None:
    """Run what is missing of a suite, then write its tables; a failed run is an error at the end.

    Raises:
        UserError: bad arguments, or runs that failed.
    """
    if options.jobs < 1:
        raise UserError(f"--jobs {options.jobs}: must be a whole number from 1")
    chosen = load_suite(options.name, configurations(options.config))
    work = suite_folder(chosen, options.quick)
    ours = not (options.quick or options.config or options.out or options.name.endswith((".yaml", ".yml")))
    folder = options.out or (RESULTS_FOLDER if ours else work)
    results = stored_results(chosen, folder, work, options.quick)
    failures = 0
    if not options.render:
        jobs = jobs_of(chosen, work, options.quick, options.only)
        with using(work, "suite"):  # a second process would end this one's runs as orphans
            failures = Runner(results, options.jobs).run(jobs)
    if results.rows:
        path = Path("RESULTS.md") if ours else folder / "RESULTS.md"
        command = f"python evaluate.py suite {options.name}" + (" --quick" if options.quick else "")
        for written in write_results(chosen, results, path, command):
            print(f"wrote {written}", flush=True)
    if options.wandb:
        from qat.suite.upload import upload_suite

        upload_suite(chosen, results, folder / "wandb")
    if failures:
        raise UserError(f"suite: {failures} runs failed; the log of each lies beside its folder in {work}")


def configurations(pairs: Sequence[str]) -> dict[str, str]:
    """Model -> configuration file from `MODEL=FILE`.

    Raises:
        UserError: something else.
    """
    split = [pair.partition("=") for pair in pairs]
    for model, equals, file in split:
        if not (equals and file):
            raise UserError(f"--config {model}: must be MODEL=FILE")
    return {model: file for model, _, file in split}


def stored_results(chosen: Suite, folder: Path, work: Path, quick: bool) -> Results:
    """The rows stored in a folder, without those of runs that were made with other settings."""
    results = Results.load(folder, chosen.name)
    stale = results.drop_stale(jobs_of(chosen, work, quick))
    if stale:
        print(f"suite: {stale} stored runs were made with other settings and are dropped", flush=True)
        results.save()
    return results
