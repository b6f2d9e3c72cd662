"""Suites: every row of a set of tables, from the file that names them to the rows that were measured."""

from qat.suite.jobs import Job, jobs_of, suite_folder
from qat.suite.runner import Runner
from qat.suite.spec import FLOAT, Aim, Published, Suite, SuiteRow, SuiteTable, load_suite, suite_names
from qat.suite.store import Results

__all__ = [
    "FLOAT",
    "Aim",
    "Job",
    "Published",
    "Results",
    "Runner",
    "Suite",
    "SuiteRow",
    "SuiteTable",
    "jobs_of",
    "load_suite",
    "suite_folder",
    "suite_names",
]
