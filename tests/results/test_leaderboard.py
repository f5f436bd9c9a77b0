"""Every entry of the leaderboard is what its study recorded; bad ones are refused by name."""

import copy
import json

import pytest
from places import ROOT

from qsft_lite import results
from qsft_lite.results import leaderboard, load_result
from qsft_lite.results.__main__ import main

RESULTS = ROOT / "data" / "results"
ENTRIES = leaderboard.load_entries(ROOT / "data" / "leaderboard", RESULTS)
[OURS] = [e for e in ENTRIES if e["task"] == "Wordle, 40 words" and e["method"] == "Q-SFT (ours)"]


def test_there_are_entries_of_every_task_and_no_method_twice():
    assert {entry["task"] for entry in ENTRIES} == set(leaderboard.TASKS)
    assert len({(entry["task"], entry["method"]) for entry in ENTRIES}) == len(ENTRIES)


def test_the_time_is_that_of_the_clone_and_of_the_row():
    raw = load_result(RESULTS / "wordle_forty_words.record.json")["raw"]
    seed = raw["seeds"][2]
    seconds = seed["Sharpened cloning"][""]["seconds"]
    seconds += seed["Q-SFT (ours)"][""]["seconds"]
    assert OURS["threads"] == 1
    assert OURS["core_minutes_of_each"][2] == pytest.approx(seconds / 60)


def test_a_distilled_policy_counts_its_teacher():
    minutes = {(entry["task"], entry["method"]): entry["core_minutes"] for entry in ENTRIES}
    distilled = [entry for entry in ENTRIES if entry["method"] == "Q-SFT, distilled"]
    assert distilled
    for entry in distilled:
        assert entry["counted"] == ["Sharpened cloning", "Q-SFT (ours)", "Q-SFT, distilled"]
        assert entry["core_minutes"] > minutes[entry["task"], "Q-SFT (ours)"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "Wordle"}, "task 'Wordle' is not one of"),
        ({"margin": {"mean": 0.1, "low": -0.01, "high": 0.2}}, "nothing was beaten"),
        ({"margin": {"mean": 0.1}}, "margin needs the numbers mean, low and high"),
        ({"margin": {"mean": 0.1, "low": 0.2, "high": 0.3}}, "low <= mean <= high"),
        ({"networks": 2}, "3 networks are needed, not 2"),
        ({"core_minutes_of_each": [1.0]}, "a time above 0 for each network"),
        ({"core_minutes_of_each": [1.0, 1.0, 1.0, 1.0, 0.0]}, "a time above 0"),
        ({"core_minutes": 1.0}, "not the mean of core_minutes_of_each"),
        ({"core_minutes": "1"}, "key 'core_minutes' has the wrong type"),
        ({"threads": 16}, "at most 2 threads, not 16"),
        ({"machine": "cuda (a GPU)"}, "the board is for CPUs"),
        ({"counted": ["ILQL"]}, "counted must name"),
        ({"commit": "unknown"}, "commit 'unknown' is no commit"),
        ({"authors": []}, "key 'authors' is empty"),
        ({"authors": [3]}, "authors are names"),
        ({"date": "yesterday"}, "'yesterday' is not an ISO date"),
        ({"speed": 3}, r"unknown keys \['speed'\]"),
    ],
)
def test_a_bad_entry_is_refused(change, message):
    leaderboard.check_entry(OURS, "sound")
    with pytest.raises(ValueError, match=f"bad: .*{message}"):
        leaderboard.check_entry(OURS | change, "bad")


@pytest.mark.parametrize("key", leaderboard.KEYS)
def test_a_missing_key_is_named(key):
    entry = {name: value for name, value in OURS.items() if name != key}
    with pytest.raises(ValueError, match=f"bad: key '{key}' is missing"):
        leaderboard.check_entry(entry, "bad")


def changed(**changes):
    """The study of Wordle, changed as given; settings=... changes single settings."""
    result = copy.deepcopy(load_result(RESULTS / "wordle_forty_words.record.json"))
    result["settings"] |= changes.pop("settings", {})
    return result | {"name": "wordle_mine"} | changes


def entered(folder, result):
    """What checking an entry of this study says; the study's file lies in ``folder``."""
    result["tables"]["wordle_mine"] = result["tables"].pop("wordle_forty_words")
    results.write_result(folder, result)
    reference = (RESULTS / "wordle_forty_words.record.json").read_bytes()
    (folder / "wordle_forty_words.record.json").write_bytes(reference)
    told = {key: OURS[key] for key in ("task", "method", "row", "authors")}
    entry = leaderboard.entry_of(result, **told)
    leaderboard.check_entry(entry, "mine")
    leaderboard.check_against(entry, folder, "mine")
    return entry


def test_a_study_of_the_same_task_enters(tmp_path):
    entry = entered(tmp_path, changed(settings={"width": 32}))
    assert entry["core_minutes"] == OURS["core_minutes"]
    with pytest.raises(ValueError, match=r"mine: \['margin'\] differ from those of wordle_mine"):
        margin = {"mean": 1.0, "low": 0.9, "high": 1.1}
        leaderboard.check_against(entry | {"margin": margin}, tmp_path, "mine")


def test_another_task_a_bad_clone_and_local_changes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="setting p is 0.9, on the board 0.33"):
        entered(tmp_path, changed(settings={"p": 0.9}))
    with pytest.raises(ValueError, match="setting test_games is 10, on the board 1000"):
        entered(tmp_path, changed(settings={"test_games": 10}))
    with pytest.raises(ValueError, match="was recorded with local changes"):
        entered(tmp_path, changed(dirty=True))
    worse = changed()
    [clone] = [
        r for r in worse["tables"]["wordle_forty_words"] if r["method"] == "Sharpened cloning"
    ]
    clone["score"] = {"mean": -2.0, "low": -2.1, "high": -1.9}
    with pytest.raises(ValueError, match="its clone has -2.00, the board's -1.57"):
        entered(tmp_path, worse)


def test_a_study_without_times_or_without_the_row_is_refused():
    older = load_result(RESULTS / "endgames_four_materials.record.json")
    told = {"task": OURS["task"], "method": "x", "authors": ["a"]}
    with pytest.raises(ValueError, match="recorded no seconds of 'Sharpened cloning'"):
        leaderboard.entry_of(older, row="ILQL", **told)
    with pytest.raises(ValueError, match="has no row 'PPO'; it has"):
        leaderboard.entry_of(older, row="PPO", **told)


def test_the_command_writes_what_is_committed(tmp_path, monkeypatch, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "results").symlink_to(RESULTS)
    monkeypatch.setattr("qsft_lite.results.__main__.project_root", lambda: tmp_path)
    arguments = ["enter", str(RESULTS / "wordle_forty_words.record.json"), "--task", OURS["task"]]
    arguments += ["--row", OURS["row"], "--method", OURS["method"]]
    assert main([*arguments, "--authors", *OURS["authors"]]) == 0
    path = capsys.readouterr().out.strip()
    assert json.loads((tmp_path / path).read_text()) == OURS
    assert (tmp_path / path).read_bytes() == (ROOT / path).read_bytes()
    assert leaderboard.table(tmp_path).splitlines()[2] in leaderboard.table(ROOT)
    assert main([*arguments[:4], "--row", "PPO", "--authors", "me"]) == 1
    assert "has no row 'PPO'" in capsys.readouterr().err


def test_no_entries_and_a_broken_one_are_named(tmp_path):
    with pytest.raises(ValueError, match="holds no entry"):
        leaderboard.table(tmp_path)
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ValueError, match=r"x\.json: not readable as JSON"):
        leaderboard.load_entries(tmp_path, RESULTS)
