"""Published numbers have sources and agree with themselves; our files name what there is."""

import copy
import json

import pytest
from places import ROOT

from qsft_lite.baselines.registry import SHOWN
from qsft_lite.evaluate import normalized_score
from qsft_lite.results import literature, load_result

FOLDER = ROOT / "data" / "literature"
PUBLISHED = literature.load_published(FOLDER / "published.json")
BESIDE = literature.load_beside(FOLDER / "beside.json")
CLAIMS = literature.load_claims(FOLDER / "claims.json")


def test_every_source_is_used_and_every_number_has_one():
    assert {row["source"] for row in PUBLISHED["numbers"]} == set(PUBLISHED["sources"])


def test_a_method_has_one_number_of_each_kind():
    keys = ("task", "method", "metric", "source", "protocol")
    rows = [tuple(row[key] for key in keys) for row in PUBLISHED["numbers"]]
    assert len(set(rows)) == len(rows)


def test_some_numbers_have_both_scores_and_the_scale_is_that_of_evaluate():
    scale = PUBLISHED["scales"]["wordle"]
    ends = (scale["low"], scale["middle"], scale["high"])
    both = [r for r in PUBLISHED["numbers"] if None not in (r["value"], r["normalised"])]
    assert len(both) >= 4
    for row in both:
        here = literature.normalise(row["value"], *ends)
        assert here == pytest.approx(normalized_score(row["value"], *ends))


def test_our_rows_are_in_the_recorded_results():
    tasks = {row["task"] for row in PUBLISHED["numbers"]}
    for row in BESIDE:
        result = load_result(ROOT / "data" / "results" / f"{row['result']}.json")
        methods = [one["method"] for one in result["tables"][result["name"]]]
        assert {row["clone"], row["ours"]} <= set(methods), row["title"]
        assert not row["ilql"] or row["ilql"] in methods, row["title"]
        assert row["low"] < result["headline"]["Data"] < result["headline"][row["best"]]
        assert row["shown_as"] in SHOWN
        assert row["task"] in {"", *tasks}
        assert (ROOT / row["page"]).exists()
        assert (ROOT / "notebooks" / f"{row['chapter']}.ipynb").exists()


def test_a_task_is_judged_only_where_the_paper_s_number_is_known():
    known = {
        row["task"]
        for row in PUBLISHED["numbers"]
        if row["method"] == "Q-SFT (paper)" and row["value"] is not None
    }
    for row in BESIDE:
        if row["verdict"] in ("reproduced", "better", "worse"):
            assert row["task"] in known, row["title"]


def test_the_evidence_of_a_claim_is_there():
    for row in CLAIMS:
        for page in row["pages"]:
            assert (ROOT / page).exists(), page
        for chapter in row["chapters"]:
            assert (ROOT / "notebooks" / f"{chapter}.ipynb").exists(), chapter


def broken(tmp_path, content):
    path = tmp_path / "file.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "nowhere"}, r"number 1 \(wordle, .*'nowhere' is not one of \['alfworld'"),
        ({"source": ""}, "number 1: key 'source' is empty"),
        ({"value": "-2.11"}, "key 'value' has the wrong type"),
        ({"value": True}, "key 'value' has the wrong type"),
        ({"value": None, "note": ""}, "no number, and no note"),
        ({"normalised": 50.0}, r"-2\.11 is 96\.1 by the scale, not 50"),
        ({"task": "chess", "normalised": 50.0}, "need a scale"),
        ({"seed": 3}, r"unknown keys \['seed'\]"),
    ],
)
def test_a_wrong_number_is_refused(tmp_path, change, message):
    content = copy.deepcopy(PUBLISHED)
    assert content["numbers"][1]["method"] == "Q-SFT (paper)"
    content["numbers"][1] |= change
    with pytest.raises(ValueError, match=rf"file\.json: .*{message}"):
        literature.load_published(broken(tmp_path, content))


def test_a_missing_key_and_a_broken_file_are_named(tmp_path):
    content = copy.deepcopy(PUBLISHED)
    del content["numbers"][0]["source"]
    with pytest.raises(ValueError, match=r"number 0: key 'source' is missing"):
        literature.load_published(broken(tmp_path, content))
    with pytest.raises(ValueError, match=r"file\.json: key 'scales' is missing"):
        literature.load_published(broken(tmp_path, {"sources": {}}))
    with pytest.raises(ValueError, match=r"file\.json: not readable as JSON"):
        literature.load_published(broken(tmp_path, "{"))
    with pytest.raises(ValueError, match=r"file\.json: a list is needed"):
        literature.load_claims(broken(tmp_path, {}))
    with pytest.raises(ValueError, match="row 0: a JSON object is needed, not a int"):
        literature.load_claims(broken(tmp_path, [1]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"verdict": "true"}, "verdict 'true' is not one of"),
        ({"chapters": [], "pages": []}, "is 'holds' without a chapter or a page"),
        ({"verdict": "unknown"}, "is 'unknown' without what it waits for"),
    ],
)
def test_a_claim_without_evidence_is_refused(tmp_path, change, message):
    assert CLAIMS[0]["verdict"] == "holds"
    with pytest.raises(ValueError, match=message):
        literature.load_claims(broken(tmp_path, [CLAIMS[0] | change]))
    with pytest.raises(ValueError, match="verdict 'equal' is not one of"):
        literature.load_beside(broken(tmp_path, [BESIDE[0] | {"verdict": "equal"}]))
