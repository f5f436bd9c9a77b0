"""Pictures in trajectories: references, checks, hashes, tokens, packed rows, batches."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from small_pictures import ASK, SIZE, TOKENIZER, TOKENS, picture, vision_model, write_episodes

from qsft_lite.baselines.episodes import add_return_tokens, condition_on_return
from qsft_lite.data import (
    RewardScale,
    collate,
    cut_turns,
    data_hash,
    encode,
    load_trajectories,
    pack,
    recording,
    save_trajectories,
    split,
)
from qsft_lite.data.images import image_digest, load_image
from qsft_lite.models import pixel_rule, word_tokenizer

SCALE = RewardScale(0.0, 1.0)


def encoded(path, memory="turn", **options):
    return encode(
        load_trajectories(path),
        TOKENIZER,
        scale=SCALE,
        memory=memory,
        image_tokens=TOKENS,
        **options,
    )


def rewrite(path, change):
    """The file with a change made to each record, in place."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for number, record in enumerate(records):
        change(number, record)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


# Files


def test_references_are_relative_in_the_file_and_whole_in_memory(tmp_path):
    path = write_episodes(tmp_path / "data", 4)
    record = json.loads(path.read_text().splitlines()[0])
    assert record["images"] == ["images-00000.npy#0", "images-00000.npy#1"]
    loaded = load_trajectories(path)
    assert loaded[0]["images"] == [f"{tmp_path}/data/images-00000.npy#{row}" for row in (0, 1)]
    there = np.load(tmp_path / "data" / "images-00001.npy", allow_pickle=False)
    assert (load_image(loaded[3]["images"][1]) == there[3]).all()
    assert load_image(loaded[0]["images"][0]).shape == (SIZE, SIZE, 3)
    # Written elsewhere, they still lead to the same pictures.
    save_trajectories(loaded, tmp_path / "elsewhere" / "again.jsonl")
    line = json.loads((tmp_path / "elsewhere" / "again.jsonl").read_text().splitlines()[0])
    assert line["images"][0] == "../data/images-00000.npy#0"
    again = load_trajectories(tmp_path / "elsewhere" / "again.jsonl")
    assert again.to_list() == loaded.to_list()
    streamed = load_trajectories(path, streaming=True)
    assert list(streamed) == loaded.to_list()


def test_a_picture_file_is_read_as_its_array(tmp_path):
    for name in ("a.png", "b.PNG"):
        Image.fromarray(picture("red")).save(tmp_path / name, "PNG")
        assert (load_image(str(tmp_path / name)) == picture("red")).all()
    Image.fromarray(picture("red")).convert("RGBA").save(tmp_path / "alpha.png")
    assert (load_image(str(tmp_path / "alpha.png")) == picture("red")).all()
    np.save(tmp_path / "c.npy", picture("red")[None])
    digests = {image_digest(str(tmp_path / name)) for name in ("a.png", "b.PNG", "c.npy#0")}
    assert len(digests) == 1


def test_the_hash_is_of_what_pictures_show_and_not_of_where_they_lie(tmp_path):
    first = write_episodes(tmp_path / "a", 4)
    known = data_hash(load_trajectories(first))
    assert known == data_hash(load_trajectories(write_episodes(tmp_path / "b", 4)))
    array = np.load(tmp_path / "b" / "images-00001.npy")
    array[-1, -1, -1, -1] ^= 1
    np.save(tmp_path / "b" / "images-00001.npy", array)
    assert known != data_hash(load_trajectories(tmp_path / "b" / "episodes.jsonl"))
    parts = split(load_trajectories(first), 1, 1, seed=0)
    assert len(parts["train"][0]["images"]) == 2


def test_episodes_without_pictures_may_stand_among_others(tmp_path):
    def blind(number, record):
        if number == 1:
            del record["images"]
            record["sequence"] = [
                [text.replace("<image> ", ""), a] for text, a in record["sequence"]
            ]

    path = rewrite(write_episodes(tmp_path, 3), blind)
    loaded = load_trajectories(path)
    assert [len(row["images"]) for row in loaded] == [2, 0, 2]
    texts = rewrite(path, lambda _, record: record.pop("images", None))
    assert "images" not in load_trajectories(texts).column_names  # then "<image>" is a word


# What is refused, with file and line


def one_fewer(number, record):
    if number == 1:
        record["images"].pop()


def none_at_all(number, record):
    if number == 1:
        del record["images"]


def none_at_first(number, record):
    if number == 0:
        del record["images"]


def in_an_action(number, record):
    if number == 1:
        record["sequence"][1][0] = "<image>\n"
        record["sequence"][0][0] = "\n"


def reference(name):
    def change(number, record):
        if number == 1:
            record["images"][1] = name

    return change


@pytest.mark.parametrize(
    ("change", "line", "message"),
    [
        (one_fewer, 2, '2 "<image>" in the texts, but 1 images'),
        (none_at_all, 2, '2 "<image>" in the texts, but 0 images'),
        (none_at_first, 1, '"<image>" in the texts, but no images'),
        (in_an_action, 2, "in an action"),
        (reference("images-00000.npy#99"), 2, "the array has 3 rows, 0 to 2"),
        (reference("images-00000.npy"), 2, "is no reference to a picture"),
        (reference("images-00000.npy#-1"), 2, "is no reference to a picture"),
        (reference("gone.npy#0"), 2, "gone.npy cannot be opened: No such file"),
        (reference("gone.png"), 2, "gone.png cannot be opened: No such file"),
        (reference("notes.txt"), 2, "is no reference to a picture"),
        (reference("floats.npy#0"), 2, r"float64 \(2, 8, 8, 3\), not uint8"),
        (reference("gray.npy#0"), 2, r"uint8 \(2, 8, 8\), not uint8 \(N, H, W, 3\)"),
        (reference("large.npy#0"), 2, "16 x 16 pixels, the pictures before it have 8 x 8"),
        (reference("objects.npy#0"), 2, "is no whole array file"),
        (reference("half.npy#0"), 2, "is no whole array file"),
        (reference("torn.png"), 2, "no picture that can be read"),
        (reference("deep.png"), 2, "pixels of the kind I;16"),
        (reference(7), 2, "not a list of references"),
    ],
)
def test_wrong_pictures_are_named_with_file_and_line(tmp_path, change, line, message):
    path = write_episodes(tmp_path, 3)
    np.save(tmp_path / "floats.npy", np.zeros((2, 8, 8, 3)))
    np.save(tmp_path / "gray.npy", np.zeros((2, 8, 8), np.uint8))
    np.save(tmp_path / "large.npy", np.zeros((2, 16, 16, 3), np.uint8))
    np.save(tmp_path / "objects.npy", np.array([{}] * 2), allow_pickle=True)
    (tmp_path / "half.npy").write_bytes((tmp_path / "images-00000.npy").read_bytes()[:300])
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "deep.png")
    rewrite(path, change)
    with pytest.raises(ValueError, match=rf"episodes.jsonl:{line}: .*{message}"):
        load_trajectories(path)


def test_pictures_come_late_in_a_stream(tmp_path):
    path = rewrite(write_episodes(tmp_path, 3), none_at_first)
    with pytest.raises(ValueError, match=r"episodes.jsonl:2: images, which the first episode"):
        list(load_trajectories(path, streaming=True))


# Tokens and rows


@pytest.mark.parametrize("memory", ["episode", "turn"])
def test_a_picture_becomes_its_tokens_and_stays_in_order(tmp_path, memory):
    path = write_episodes(tmp_path, 5, turns=3)
    rows = encoded(path, memory)
    episodes = load_trajectories(path)
    words = TOKENIZER(" which side?\n", add_special_tokens=False).input_ids
    for row, episode in zip(rows, episodes, strict=True):
        assert row["images"] == episode["images"]
        ids, starts = np.array(row["input_ids"]), np.flatnonzero(row["image_start"])
        assert (ids == 3).sum() == 3 * TOKENS and len(starts) == 3
        for start in starts:
            assert (ids[start : start + TOKENS] == 3).all() and ids[start - 1] != 3
            assert ids[start + TOKENS :][: len(words)].tolist() == words
        assert not np.array(row["action_mask"])[ids == 3].any()
    assert list(encode(
        load_trajectories(path, streaming=True), TOKENIZER, scale=SCALE, memory=memory,
        image_tokens=TOKENS,
    )) == rows.to_list()  # fmt: skip


def tell(rows):
    """Of packed rows: the pictures that each segment has, by its tokens and by the references."""
    found = []
    for row in rows:
        ids, segments = np.array(row["input_ids"]), np.array(row["segment_ids"])
        images = iter(row["images"])
        for segment in range(1, segments.max() + 1):
            inside = ids[segments == segment]
            shown = [str(next(images)) for _ in range((inside == 3).sum() // TOKENS)]
            found.append((tuple(inside.tolist()), *shown))
        assert next(images, None) is None
    return found


def test_packed_rows_keep_each_turn_with_its_picture(tmp_path):
    rows = encoded(write_episodes(tmp_path, 40))
    expected = []
    for row in rows:
        ids, images = np.array(row["input_ids"]), iter(row["images"])
        for turn in np.split(ids, np.flatnonzero(np.array(row["position_ids"]) == 0)[1:]):
            expected.append((tuple(turn.tolist()), next(images)))
    assert sorted(tell(pack(rows, 64))) == sorted(expected)
    stream = encode(
        load_trajectories(tmp_path / "episodes.jsonl", streaming=True), TOKENIZER, scale=SCALE,
        memory="turn", image_tokens=TOKENS,
    )  # fmt: skip
    assert sorted(tell(list(pack(stream, 64)))) == sorted(expected)


def test_pieces_of_episodes_have_the_pictures_of_their_turns(tmp_path):
    rows = encoded(write_episodes(tmp_path, 6, turns=5))
    turn = (np.array(rows[0]["position_ids"]) == 0).nonzero()[0][1]
    pieces = cut_turns(rows, 2 * turn + 10)
    assert len(pieces) > len(rows)
    of_turns = {}
    for row in rows:
        begin = np.flatnonzero(np.array(row["position_ids"]) == 0)
        of_turns[tuple(row["images"])] = len(begin)
    seen = []
    for piece in pieces:
        count = (np.array(piece["input_ids"]) == 3).sum() // TOKENS
        assert len(piece["images"]) == count == sum(piece["image_start"])
        seen += piece["images"]
        [whole] = [images for images in of_turns if piece["images"][0] in images]
        first = whole.index(piece["images"][0])
        assert tuple(piece["images"]) == whole[first : first + count]
    assert set(seen) == {each for images in of_turns for each in images}
    packed = tell(pack(pieces, 64))
    assert {image for _, *images in packed for image in images} == set(seen)


def test_a_batch_has_the_pixels_of_all_its_rows_in_order(tmp_path):
    rows = pack(encoded(write_episodes(tmp_path, 20)), 64)
    batch = collate([rows[i] for i in range(3)], pixel_rule(vision_model()))
    names = [str(each) for i in range(3) for each in rows[i]["images"]]
    expected = np.stack([load_image(each) for each in names]).transpose(0, 3, 1, 2) / 255
    assert batch["pixel_values"].dtype == torch.float32
    np.testing.assert_allclose(batch["pixel_values"].numpy(), expected, atol=1e-6)
    assert "pixel_values" not in collate([rows[0]])


def test_what_encode_cannot_read_is_refused(tmp_path):
    path = write_episodes(tmp_path, 2)
    episodes = load_trajectories(path)
    with pytest.raises(ValueError, match="say how many tokens each has"):
        encode(episodes, TOKENIZER, scale=SCALE)
    # A dataset that was changed in memory is looked at again.
    changed = episodes.map(lambda row: {"images": row["images"][:1]})
    with pytest.raises(ValueError, match="row 0: not one of its images for each"):
        encode(changed, TOKENIZER, scale=SCALE, image_tokens=TOKENS)
    changed = episodes.map(lambda row: {"is_action": [True] * len(row["text"])})
    with pytest.raises(ValueError, match="row 0: a picture in an action"):
        encode(changed, TOKENIZER, scale=SCALE, image_tokens=TOKENS)
    with pytest.raises(ValueError, match="has no token <image>"):
        encode(episodes, word_tokenizer([ASK]), scale=SCALE, image_tokens=TOKENS)


# Recording


def play_block(folder, episodes, seed):
    """Episodes of one turn whose pictures are in a file of the block."""
    random = np.random.default_rng(seed)
    name = f"{folder}/images-{seed.spawn_key[0]:05d}.npy"
    np.save(name, random.integers(0, 256, (episodes, SIZE, SIZE, 3), dtype=np.uint8))
    return {
        "text": [[ASK, "left\n"]] * episodes,
        "is_action": [[False, True]] * episodes,
        "reward": [[0.0, 1.0]] * episodes,
        "done": [True] * episodes,
        "images": [[f"{name}#{row}"] for row in range(episodes)],
    }


def test_recorded_blocks_have_their_pictures_beside_them(tmp_path):
    play = partial(play_block, tmp_path)
    kept = recording.record(play, 7, 0, {"task": "sides"}, path=tmp_path, block_size=3)
    assert len(kept) == 7 and kept[6]["images"] == [f"{tmp_path}/images-00002.npy#0"]
    line = json.loads((tmp_path / "00001.jsonl").read_text().splitlines()[0])
    assert line["images"] == ["images-00001.npy#0"]
    assert recording.record(play, 7, 0, {}, block_size=3).to_list() == kept.to_list()


def test_a_return_token_moves_no_picture(tmp_path):
    rows = encoded(write_episodes(tmp_path, 4, turns=3))
    _, tokenizer = add_return_tokens(vision_model(), TOKENIZER, 2, seed=0)
    for row, old in zip(condition_on_return(rows, tokenizer, 2), rows, strict=True):
        ids, starts = np.array(row["input_ids"]), np.flatnonzero(row["image_start"])
        assert row["images"] == old["images"] and len(starts) == 3
        for start in starts:
            assert (ids[start : start + TOKENS] == 3).all() and ids[start - 1] >= len(TOKENIZER)
