"""Files and folders are written whole, or not at all."""

import os

import pytest

from qsft_lite.files import replace_file, replace_folder, written_aside


def fail(*_):
    raise OSError("disk full")


def content(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    replace_file(tmp_path / "new" / "file", b"old")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        replace_file(tmp_path / "new" / "file", b"new")
    assert content(tmp_path) == {os.path.join("new", "file"): "old"}


def test_a_link_stays_one(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    with written_aside(tmp_path / "link") as aside:
        aside.write_text("new")
        assert (tmp_path / "file").read_text() == "old"
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path) == {"file": "new", "link": "new"}


def test_a_folder_is_replaced_whole(tmp_path):
    folder = tmp_path / "a" / "folder"
    for text in ("one", "two"):
        with replace_folder(folder) as aside:
            (aside / text).write_text(text)
        assert content(tmp_path / "a") == {os.path.join("folder", text): text}
    with pytest.raises(ZeroDivisionError), replace_folder(folder) as aside:
        (aside / "three").write_text("half of it")
        raise ZeroDivisionError
    assert content(tmp_path / "a") == {os.path.join("folder", "two"): "two"}


def test_an_error_at_the_last_moment_brings_the_old_folder_back(tmp_path, monkeypatch):
    with replace_folder(tmp_path / "folder") as aside:
        (aside / "file").write_text("old")
    replace = os.replace
    new = f".folder.{os.getpid()}"
    monkeypatch.setattr(os, "replace", lambda a, b: fail() if a.name == new else replace(a, b))
    with pytest.raises(OSError, match="disk full"), replace_folder(tmp_path / "folder") as aside:
        (aside / "file").write_text("new")
    monkeypatch.undo()
    assert content(tmp_path) == {os.path.join("folder", "file"): "old"}
