"""Games made in shards: together the same files as made at once, whoever makes them, and when."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsft_lite import envs
from qsft_lite.data import load_trajectories, recording
from qsft_lite.generate import main

BLOCK = 10


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(recording, "BLOCK", BLOCK)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@st.composite
def some_shards(draw):
    """Numbers of games and shards, and an order of the shards."""
    games = draw(st.integers(1, 6 * BLOCK))
    count = draw(st.integers(1, -(-games // BLOCK)))
    return games, draw(st.permutations(range(1, count + 1)))


@settings(max_examples=10, deadline=None)
@given(some_shards(), st.integers(0, 2**40))
def test_shards_together_are_the_games_made_at_once(chosen, seed):
    games, order = chosen
    k = len(order)
    with monkeypatched(), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = envs.generate("gridworld", games, seed, path=folder / "whole")
        found, apart = {}, 0
        for i in order:
            part = envs.generate("gridworld", games, seed, path=folder / f"{i}", shard=(i, k))
            assert part.to_dict() == envs.generate("gridworld", games, seed, shard=(i, k)).to_dict()
            envs.generate("gridworld", games, seed, path=folder / "one", shard=(i, k))
            apart += len(part)
            own = files(folder / f"{i}")
            assert own.keys() & found.keys() <= {"settings.json"}  # no block is made twice
            found |= own
        assert apart == games
        assert found == files(folder / "one") == files(folder / "whole")
        assert load_trajectories(folder / "one").to_dict() == whole.to_dict()


def monkeypatched() -> pytest.MonkeyPatch:
    patch = pytest.MonkeyPatch()
    patch.setattr(recording, "BLOCK", BLOCK)
    return patch.context()


def make(folder: Path, shard: str, *more: str, games: int = 35, task: str = "gridworld") -> int:
    arguments = ["--games", str(games), "--seed", "4", "--output", str(folder), "--shard", shard]
    return main([task, *arguments, *more])


def test_the_command_says_what_is_missing(tmp_path, capsys):
    folder = tmp_path / "walks"
    said = []
    for shard in ("2/3", "2/3", "1/3", "3/3"):
        assert make(folder, shard) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] == f"shard 2/3: 10 games in {folder}; 3 more files to make\n"
    assert "15 games" in said[2] and "1 more" in said[2]
    assert "10 games" in said[3] and "all files are there" in said[3]
    assert len(load_trajectories(folder)) == 35
    whole = envs.generate("gridworld", 35, 4, path=folder)  # makes what is missing: nothing
    assert whole.to_dict() == envs.generate("gridworld", 35, 4).to_dict()


def test_a_killed_shard_goes_on_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    write, written = recording.save_trajectories, []

    def write_until_killed(dataset, path):
        if written:
            raise KeyboardInterrupt
        written.append(path)
        write(dataset, path)

    with monkeypatch.context() as killed:
        killed.setattr(recording, "save_trajectories", write_until_killed)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path, "1/2")
    assert set(files(tmp_path)) == {"settings.json", "00000.jsonl"}
    assert [path.name for path in recording.missing_files(tmp_path)] == [
        "00001.jsonl",
        "00002.jsonl",
        "00003.jsonl",
    ]
    assert make(tmp_path, "1/2") == 0 == make(tmp_path, "2/2")
    assert not recording.missing_files(tmp_path)


def test_options_of_the_task_are_set_by_name(tmp_path):
    for p in ("0.5", "0.25"):
        assert make(tmp_path / p, "2/2", "--set", f"p={p}", "format=words", task="wordle") == 0
    one, other = (load_trajectories(tmp_path / p)["text"] for p in ("0.5", "0.25"))
    assert len(one) == 15 and one[:] != other[:]


@pytest.mark.parametrize(
    ("shard", "more", "message"),
    [
        ("0/3", [], "no shard is called 0/3"),
        ("4/3", [], "no shard is called 4/3"),
        ("1/0", [], "no shard is called 1/0"),
        ("3", [], "'3' is no shard: write I/K"),
        ("1/-3", [], "'1/-3' is no shard"),
        ("1/5", [], "5 shards are too many: the episodes are 4 files of up to 10"),
        ("1/3", ["--games", "0"], "n must be at least 1"),
        ("1/3", ["--set", "max_step=3"], "did you mean"),
        ("1/3", ["--set", "max_steps"], "write name=value"),
        ("1/3", ["--games", "many"], "many"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(shard, more, message, tmp_path, capsys):
    try:
        status = make(tmp_path / "walks", f"{shard}", *more)
    except SystemExit as error:
        status = error.code
    said = capsys.readouterr()
    assert status == 2 and not said.out and not (tmp_path / "walks").exists()
    assert message in said.err and said.err.count("\n") == 1


def test_a_folder_of_other_games_is_refused(tmp_path, capsys):
    assert make(tmp_path, "1/2") == 0
    before = files(tmp_path)
    assert make(tmp_path, "2/2", games=36) == 2
    assert "holds episodes with n=35, not 36" in capsys.readouterr().err
    assert make(tmp_path, "2/2", task="wordle") == 2
    assert files(tmp_path) == before
    with pytest.raises(ValueError, match="holds no recorded episodes"):
        recording.missing_files(tmp_path / "nothing")
