"""Where a number comes from: commit, versions, command, hashes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from qat.system.provenance import command, config_sha256, git_commit, provenance, versions


def test_config_hash_changes_with_a_nested_value_only() -> None:
    one = {"a": {"b": 1, "c": [1, 2]}}
    assert config_sha256(one) == config_sha256({"a": {"c": [1, 2], "b": 1}})
    assert config_sha256(one) != config_sha256({"a": {"b": 1, "c": [2, 1]}})


def test_command_hides_where_the_checkout_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert command([str(tmp_path / "train.py"), "--qat", "off"]) == "python train.py --qat off"
    assert command(["/elsewhere/bin/pytest"]) == "python pytest"


def test_commit_is_named_and_marked_dirty(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false")
        done = subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert git_commit(tmp_path) is None
    git("init", "-q")
    assert git_commit(tmp_path) is None, "no commit yet"
    (tmp_path / "a").write_text("1")
    (tmp_path / "docs").mkdir()
    for prose in ("README.md", "docs/rows.json"):
        (tmp_path / prose).write_text("1")
    git("add", "a", "README.md", "docs/rows.json")
    git("commit", "-qm", "one")
    assert git_commit(tmp_path) == git("rev-parse", "HEAD")
    for prose in ("README.md", "docs/rows.json"):
        (tmp_path / prose).write_text("2")
    assert git_commit(tmp_path) == git("rev-parse", "HEAD"), "prose and stored results decide no number"
    (tmp_path / "a").write_text("2")
    assert git_commit(tmp_path) == git("rev-parse", "HEAD") + "-dirty"
    (tmp_path / "inside").mkdir()
    assert git_commit(tmp_path / "inside") is None, "an installed copy in another checkout"


def test_provenance_fills_its_fields() -> None:
    parts = provenance(started=0.0)
    assert parts["started_at"] == "1970-01-01T00:00:00+00:00" and parts["duration_s"] > 1e9
    assert parts["versions"] == versions() and parts["versions"]["torch"]
