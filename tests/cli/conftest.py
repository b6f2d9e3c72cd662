"""Exported tiny models for the commands that run them."""

from __future__ import annotations

from tests.runtime.conftest import crdnn  # noqa: F401
