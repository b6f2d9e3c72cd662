"""A package that imports its public names on first use."""

from __future__ import annotations

import sys

import pytest

from qat.system.lazy import lazy_names


def test_a_name_is_imported_from_its_module_when_it_is_asked_for() -> None:
    get = lazy_names("json", {"JSONDecoder": "decoder"})
    assert get("JSONDecoder") is sys.modules["json.decoder"].JSONDecoder


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'json' has no attribute 'Nothing'"):
        lazy_names("json", {})("Nothing")
