"""Recorded games of any task: the seed decides them, and a killed run goes on where it was."""

import pytest

from qsft_lite import envs
from qsft_lite.data import recording

OPTIONS = {
    "wordle": {"word_list": ("crane", "crate", "trace", "grate", "great", "react")},
    "twenty_questions": {},
    "endgames": {"materials": ["Q"]},
    "gridworld": {},
}


@pytest.fixture(params=OPTIONS)
def generate(request, monkeypatch):
    """Games of a task, so many with a seed, in blocks of 20."""
    monkeypatch.setattr(recording, "BLOCK", 20)
    name = request.param
    return lambda n, seed, **more: envs.generate(name, n, seed, **OPTIONS[name], **more)


def test_the_seed_decides_everything(generate):
    games = generate(50, 1)["text"][:]
    assert games == generate(50, 1)["text"][:] != generate(50, 2)["text"][:]
    longer = generate(60, 1)["text"][:]
    assert games[:40] == longer[:40]  # whole blocks do not depend on n
    assert longer[:20] != longer[20:40]


@pytest.mark.parametrize("generate", ["wordle"], indirect=True)  # one task shows it for all
def test_files_have_the_same_bytes_for_any_number_of_processes(generate, tmp_path):
    one = generate(30, 3, path=tmp_path / "one")
    generate(30, 3, path=tmp_path / "two", processes=2)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["00000.jsonl", "00001.jsonl", "settings.json"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert one.to_dict() == generate(30, 3).to_dict()


@pytest.mark.parametrize("killed_at", [0, 1, 2])
def test_a_killed_run_resumes(generate, tmp_path, monkeypatch, killed_at):
    whole = generate(50, 3, path=tmp_path / "whole")
    write = recording.save_trajectories

    def write_until_killed(dataset, path):
        if path.name == f"{killed_at:05d}.jsonl":
            raise KeyboardInterrupt
        write(dataset, path)

    with monkeypatch.context() as killed:
        killed.setattr(recording, "save_trajectories", write_until_killed)
        with pytest.raises(KeyboardInterrupt):
            generate(50, 3, path=tmp_path / "resumed")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "resumed").glob("*.jsonl")}
    assert len(kept) == killed_at
    resumed = generate(50, 3, path=tmp_path / "resumed")
    assert resumed.to_dict() == whole.to_dict()
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
