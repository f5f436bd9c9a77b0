"""Studies at their smallest: they run, record, go on where they were, and refuse what is wrong."""

import itertools
import json

import numpy as np
import pytest
import torch
from small_studies import needs_stockfish

from qsft_lite.baselines import METHODS
from qsft_lite.baselines.choosing import as_options
from qsft_lite.study import ABLATION, CLONING, ROWS, Study, Task, module_of, run
from qsft_lite.study.__main__ import main
from qsft_lite.study.rows import FEW_BETAS, FEW_TEMPERATURES, Q_TRANSFORMER
from qsft_lite.trainer import QSFTConfig

TASKS = ("gridworld", "wordle", "twenty_questions", "endgames")


def no_training(*_, **__):
    raise AssertionError("trained again")


@pytest.mark.parametrize("task", TASKS)
def test_it_records_a_row_for_each_method_and_does_not_train_twice(
    small, monkeypatch, tmp_path, task
):
    monkeypatch.setenv("QSFT_COMMAND", "python -m qsft_lite.study ...")
    two_scores = ["q_sft_dummy"] if task == "gridworld" else []
    study, result = small(task, ["ilql", "q_sft", *two_scores])
    rows = {row["method"]: row for row in result["tables"][study.name]}
    titles = [f"Q-SFT, one dummy, by {score}" for _ in two_scores for score in ("p", "p/pi")]
    assert list(rows) == ["Sharpened cloning", "ILQL", "Q-SFT (ours)", *titles]
    assert "KL(pi_beta || pi_phi)" in str(result["tables"])
    seed = result["raw"]["seeds"][0]
    games = [int(game) for game in seed["ILQL"][""]["returns"].split()]
    assert len(games) == study.settings.test_games
    if task in ("wordle", "twenty_questions"):
        lowest = module_of(task).TASK.lowest
        assert set(games) <= set(range(lowest, 1))
        assert lowest < result["headline"]["Optimum"] <= 0
    assert rows["ILQL"]["score"]["mean"] == pytest.approx(np.mean(games))
    assert rows["Sharpened cloning"]["over sharpened cloning"]["mean"] == 0
    check_grids(seed, bool(two_scores))

    recorded = json.loads(next((tmp_path / "results").iterdir()).read_text())
    assert recorded["raw"] == json.loads(json.dumps(result["raw"]))
    assert recorded["command"].startswith("python -m")
    assert recorded["settings"]["games"] == study.settings.games
    monkeypatch.setattr(Task, "train", no_training)  # finished rows need no training
    again = run(study, quiet=True)
    assert again == result


def check_grids(seed, two_scores):
    """All that has values has tried all of one grid; what was chosen has the best mean."""
    with_values = [("ILQL", ""), ("Q-SFT (ours)", "")]
    if two_scores:
        with_values += [("Q-SFT, one dummy", "p"), ("Q-SFT, one dummy", "ratio")]
    for title, score, axes in (
        ("Sharpened cloning", "", FEW_TEMPERATURES),
        *((*one, FEW_BETAS) for one in with_values),
    ):
        one, by = seed[title][score], {"score": score} if score else {}
        tried = json.loads(one["grid"])  # beside all of the grid, what it was widened by
        for place in itertools.product(*axes.values()):
            assert as_options(dict(zip(axes, place, strict=True))) | by in tried
        assert one["tried"][tried.index(one["options"])] == max(one["tried"])


@pytest.mark.parametrize("key", ["dummy_along", "head_behavior", "q_sft_new_head"])
def test_a_row_that_is_named_runs_alone(small, key):
    kind = "ablation" if key in ABLATION else "methods"
    study, result = small("gridworld", [key], kind=kind)
    row = (ABLATION | ROWS)[key]
    titles = [found["method"] for found in result["tables"][f"gridworld_{kind}"]]
    assert titles[0] == CLONING.title and len(titles) == 1 + len(row.scores)
    assert all(title.startswith(row.title) for title in titles[1:])
    kept = study.trained(0, key)
    assert kept.method == row.method and row.options.items() <= kept.settings.items()


def test_a_distilled_row_learns_from_the_row_it_names_as_that_was_chosen(small):
    study, result = small("gridworld", ["q_sft", "q_sft_distilled"])
    chosen = result["raw"]["seeds"][0]["Q-SFT (ours)"][""]["options"]
    kept = study.trained(0, "q_sft_distilled")
    assert chosen.items() <= kept.settings.items() and kept.values is None
    with pytest.raises(ValueError, match="q_sft_distilled learns from q_sft: name q_sft among"):
        Study.of("gridworld", "smoke", methods=["q_sft_distilled"])


def test_q_transformer_is_a_row_of_tasks_that_name_it(small, monkeypatch):
    with pytest.raises(ValueError, match="no method is called 'q_transformer'"):
        Study.of("gridworld", "smoke", methods=["q_transformer"])
    rows = {**ROWS, Q_TRANSFORMER.key: Q_TRANSFORMER}
    monkeypatch.setattr(module_of("gridworld"), "ROWS", rows, raising=False)
    study, result = small("gridworld", ["q_transformer"])
    titles = [found["method"] for found in result["tables"]["gridworld_methods"]]
    assert titles == [CLONING.title, "Q-Transformer"]
    kept = study.trained(0, "q_transformer")
    assert kept.method == "q_transformer" and kept.values.choices.any()
    chosen = result["raw"]["seeds"][0]["Q-Transformer"][""]["options"]
    assert {"beta", "relative_support"} <= set(chosen)  # of the grid of all that has values


def test_every_row_has_a_method_that_takes_its_options():
    own = {
        row.key: row for task in TASKS for row in getattr(module_of(task), "ROWS", ROWS).values()
    }
    own[Q_TRANSFORMER.key] = Q_TRANSFORMER
    scores = {"paired": {"", "paired"}, "dummy": {"p", "ratio"}, "uniform": {"p"}, None: {""}}
    for row in [*own.values(), *ABLATION.values()]:
        method = METHODS[row.method]
        options = {**method.options, **row.options}
        assert set(row.scores) <= scores[options.get("leftover")]
        assert method.family == "q_sft" or not row.options
        if method.family == "q_sft":
            QSFTConfig(output_dir="none", **options)  # it refuses what cannot be
    assert len(ABLATION) == len({row.title for row in ABLATION.values()}) == 13


def test_trained_policies_are_kept_and_play_the_same(small):
    study, result = small("gridworld", ["ilql", "q_sft"])
    task = study.of_seed(0)
    for title, key, score in (("ILQL", "ilql", ""), ("Q-SFT (ours)", "q_sft", "")):
        one = result["raw"]["seeds"][0][title][score]
        again = task.play(task.policy(study.trained(0, key), **one["options"]), test=True)
        assert " ".join(f"{value:.0f}" for value in again.returns) == one["returns"]


def test_chosen_options_are_those_that_a_chapter_chooses(small):
    """The steps by hand, as Task's docstring has them, end where a study ends."""
    study, result = small("gridworld", ["mc_returns"])
    task = study.of_seed(0)
    cloned = task.clone()
    ours = task.train("mc_returns", cloned)
    kept = study.trained(0, "mc_returns")
    for name in ("behavior", "values"):
        weights, expected = (getattr(one, name).state_dict() for one in (ours, kept))
        assert all(torch.equal(weights[key], expected[key]) for key in expected)
    choice = task.choose(ours, grid=FEW_BETAS)
    one = result["raw"]["seeds"][0]["Monte-Carlo returns"][""]
    assert choice.options == one["options"]


def test_another_grid_is_another_row(small, monkeypatch):
    _, first = small("gridworld")
    monkeypatch.setattr(Task, "train", no_training)  # the clone is kept, and read
    monkeypatch.setattr("qsft_lite.study.rows.FEW_TEMPERATURES", {"temperature": (0.0, 0.3, 1.0)})
    _, second = small("gridworld")
    one, other = (r["raw"]["seeds"][0]["Sharpened cloning"][""] for r in (first, second))
    assert {"temperature": 0.5, "relative_support": 0.5} in json.loads(one["grid"])
    assert {"greedy": True} in json.loads(other["grid"])
    assert {"temperature": 1.0} in json.loads(other["grid"])
    assert one["seconds"] > other["seconds"] > 0 and len(one["commit"]) >= 7


def test_seeds_run_apart_are_read_when_all_are_recorded(small, monkeypatch, tmp_path):
    three = {"changes": {"seeds": 2}}
    for seed in (0, 1):
        small("gridworld", seeds=[seed], **three)
    monkeypatch.setattr(Task, "train", no_training)
    study, result = small("gridworld", **three)
    assert study.seeds == (0, 1) and len(result["raw"]["seeds"]) == 2
    [row] = result["tables"]["gridworld_methods"]
    assert len(row["seeds"].split(", ")) == 2


def test_a_record_is_written_for_all_seeds_only(small, monkeypatch, tmp_path):
    monkeypatch.setattr("qsft_lite.study.rows.CLONING_GRID", {"temperature": (1.0,)})
    monkeypatch.setitem(
        module_of("gridworld").PROFILES, "record", module_of("gridworld").PROFILES["smoke"]
    )
    options = {"output": tmp_path / "runs", "methods": []}
    changes = {"seeds": 2, "games": 100}
    study = Study.of("gridworld", "record", seeds=[0], changes=changes, **options)
    assert run(study, quiet=True)["tables"] and not (tmp_path / "results").exists()
    run(Study.of("gridworld", "record", changes=changes, **options), quiet=True)
    written = tmp_path / "results" / "gridworld_methods.record.json"
    assert list(written.parent.iterdir()) == [written]
    named = Study.of("gridworld", "record", seeds=[0], changes=changes, label="few", **options)
    run(named, quiet=True)
    written = written.with_name("gridworld_few.record.json")
    assert written.exists()
    result = json.loads(written.read_text())
    assert set(result["tables"]) == {"gridworld_few", "gridworld_few_measured"}
    assert result["settings"]["seeds"] == 1  # as many as there were


@pytest.mark.parametrize("label", ["", "Few", "../few", "a b"])
def test_a_label_is_part_of_a_file_name(label):
    with pytest.raises(ValueError, match="a label has small letters"):
        Study.of("gridworld", "smoke", label=label)


def test_a_table_is_computed_anew_from_its_scores(small, tmp_path):
    small("gridworld", ["ilql"])
    [path] = (tmp_path / "results").glob("*.json")
    result = json.loads(path.read_text())
    stale = json.loads(path.read_text())
    for row in stale["tables"]["gridworld_methods"]:
        row["score"] = {"mean": 0.0, "low": 0.0, "high": 0.0}
        del row["at the grid's edge"]
    path.write_text(json.dumps(stale))
    assert main(["tables", str(path)]) == 0
    anew = json.loads(path.read_text())
    assert set(anew.pop("recomputed")) == {"date", "commit"}
    assert anew == result


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sokoban"], "sokoban"),
        (["gridworld", "--profile", "huge"], "huge"),
        (["gridworld", "--study", "luck"], "luck"),
        (["gridworld", "--methods", "dqn"], "no method is called 'dqn'; there are: filtered_bc"),
        (["chess", "--methods", "filtered_bc"], "no method is called 'filtered_bc'"),
        (["gridworld", "--study", "ablation", "--methods", "cql"], "no method is called 'cql'"),
        (["gridworld", "--seeds", "one"], "one"),
        (["gridworld", "--fully-shard"], "torchrun"),
        (["gridworld", "--set", "games"], "'games' is no setting: write name=value"),
        (["gridworld", "--set", "game=3"], "did you mean 'games'"),
        (["watch", "gridworld", "--set", "games=x"], "games must be of type int"),
        ([], "required"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(tmp_path, capsys, arguments, message):
    arguments += ["--output", str(tmp_path / "runs")] if arguments[1:] else []
    try:
        status = main(arguments)
    except SystemExit as error:
        status = error.code
    said = capsys.readouterr()
    assert status == 2 and not said.out and not (tmp_path / "runs").exists()
    assert message in said.err and said.err.count("\n") == 1


def test_settings_of_another_study_are_refused_by_name(tmp_path, capsys, monkeypatch):
    study = Study.of("gridworld", "smoke", output=tmp_path)
    other = Study.of("gridworld", "smoke", output=tmp_path, changes={"width": 8, "muon": False})
    assert study.folder != other.folder and study.folder.parent == other.folder.parent
    study.folder.mkdir()
    there = {**vars(other.settings), "seeds": 7}
    (study.folder / "settings.json").write_text(json.dumps(there))
    assert main(["gridworld", "--profile", "smoke", "--output", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "other settings (muon, width)" in said and said.count("\n") == 1
    with pytest.raises(ValueError, match="muon, width"):
        run(study, quiet=True)


def test_other_options_of_a_method_are_refused(small, monkeypatch):
    study, _ = small("gridworld", ["random_targets"])
    changed = study.row_folder(0, "random_targets") / "trained.json"
    changed.write_text(json.dumps(["random_targets", {"prior": 0.3}]))
    (changed.parent / "row.json").unlink()
    with pytest.raises(ValueError, match="trained with other options than random_targets has now"):
        run(study, quiet=True)


@needs_stockfish
def test_whole_games_of_chess_are_recorded_and_described(small, monkeypatch, tmp_path):
    monkeypatch.setattr("qsft_lite.tasks.chess.study.project_root", lambda: tmp_path)
    study, result = small("chess", ["ilql", "q_sft"])
    rows = {row["method"]: row for row in result["tables"]["chess_methods"]}
    assert list(rows) == ["Sharpened cloning", "ILQL", "Q-SFT (ours)"]
    for row in rows.values():
        games = study.settings.test_games
        assert row["moves a game"] <= study.settings.longest_game
        illegal = row["illegal moves"] * row["moves a game"] * games
        assert row["score"]["mean"] * games == pytest.approx(
            row["wins"] * games - row["losses"] * games - illegal
        )
    for row in result["tables"]["chess_methods_measured"]:
        assert 0 < row["pi of illegal moves"] < 1 and row["cross-entropy"] > 0
