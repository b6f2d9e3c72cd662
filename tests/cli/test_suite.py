"""`evaluate.py suite`: its arguments."""

from __future__ import annotations

import pytest

from qat.cli.evaluate import parse
from qat.cli.suite import configurations, suite
from qat.system.errors import UserError


def test_configurations_are_given_by_model() -> None:
    assert configurations(["crdnn=a.yaml", "wav2vec2=b=c.yaml"]) == {
        "crdnn": "a.yaml",
        "wav2vec2": "b=c.yaml",
    }
    with pytest.raises(UserError, match="--config crdnn: must be MODEL=FILE"):
        configurations(["crdnn"])


def test_the_number_of_jobs_is_checked_before_anything_is_read() -> None:
    with pytest.raises(UserError, match="--jobs 0: must be a whole number from 1"):
        suite(parse(["suite", "nothing", "--jobs", "0"]))
