"""The commit on the pages is the truth: its hash only while every tracked file is as committed."""

import subprocess

import pytest
from companion.build import commit


@pytest.fixture
def repository(tmp_path):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    (tmp_path / "file").write_text("1")
    for arguments in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "one"]):
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True)
    return tmp_path


def test_a_clean_tree_shows_its_hash(repository):
    full = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=repository, capture_output=True, text=True, check=True
    ).stdout
    assert full.startswith(commit.current(repository))
    assert len(commit.current(repository)) == 10
    assert commit.shown(repository) == f"commit {commit.current(repository)}"


def test_a_changed_file_shows(repository):
    (repository / "file").write_text("2")
    assert commit.current(repository) == commit.shown(repository) == commit.UNCOMMITTED


def test_without_a_repository_there_is_no_hash(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit.current(tmp_path) == commit.UNCOMMITTED


def test_the_record_keeps_its_time_while_nothing_changes(repository, tmp_path):
    target = tmp_path / "_build" / "commit"
    commit.record(repository, target)
    before = target.stat().st_mtime_ns
    commit.record(repository, target)
    assert target.stat().st_mtime_ns == before
    (repository / "file").write_text("2")
    commit.record(repository, target)
    assert target.read_text() == commit.UNCOMMITTED
