"""From files of trajectories to batches: load_trajectories -> split -> encode -> pack -> collate.

    episodes = data.load_trajectories("games.jsonl")
    parts = data.split(episodes, validation=0.05, test=0.05, seed=0)
    scale = data.RewardScale(low=-6, high=0)
    encoded = data.encode(parts["train"], tokenizer, scale=scale)
    rows = data.pack(encoded, length=256)
    batch = data.collate([rows[i] for i in range(8)])

Every step but `split` takes a streamed dataset as well, for files larger than memory.
Files of other projects, and chats, are read too: `qsft_lite.data.formats` lists their forms.
Episodes may have pictures: see `qsft_lite.data.images`.
"""

from qsft_lite.data.encoding import RewardScale, encode, start_id
from qsft_lite.data.packing import collate, cut_turns, pack
from qsft_lite.data.trajectories import data_hash, load_trajectories, save_trajectories, split

__all__ = [
    "RewardScale",
    "collate",
    "cut_turns",
    "data_hash",
    "encode",
    "load_trajectories",
    "pack",
    "save_trajectories",
    "split",
    "start_id",
]
