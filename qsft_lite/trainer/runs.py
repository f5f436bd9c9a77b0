"""The folder of a training run: who may write there, what run it is, and what is in it.

A run is described in run.json by its rows, its first weights and every setting that changes the
weights: to go on from another run's checkpoint would be silent nonsense.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import torch
from filelock import FileLock, Timeout
from transformers import TrainerState

from qsft_lite.data.images import image_digest
from qsft_lite.data.packing import PACKED, collate
from qsft_lite.files import named_if_damaged, replace_file
from qsft_lite.trainer.config import QSFTConfig

RUN = "run.json"
WEIGHTS = "model.safetensors"
STATE = "trainer_state.json"


@contextmanager
def lock_folder(args: QSFTConfig) -> Iterator[None]:
    """Hold the output folder, which is made if need be; of several processes of a run, the first.

    The operating system gives it free when the process ends, however it ends.

    Raises:
        RuntimeError: another process trains there.
        OSError: the folder cannot be made or written to.
    """
    if args.process_index:
        yield
        return
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout:
        raise RuntimeError(
            f"another process trains in {folder}: wait for its end, or choose another output_dir"
        ) from None
    with lock:
        yield


# What makes a run the same run

# Settings that leave the weights as they are. Any other, of a newer transformers too, makes
# another run; the batch is compared as a whole, however it is cut up.
NO_EFFECT = set(
    """
    output_dir per_device_train_batch_size gradient_accumulation_steps per_device_eval_batch_size
    activation_checkpointing activation_checkpointing_kwargs gradient_checkpointing
    gradient_checkpointing_kwargs torch_empty_cache_steps use_cache use_cpu clamp logging_strategy
    logging_steps logging_first_step logging_nan_inf_filter log_on_each_node log_level
    log_level_replica include_num_input_tokens_seen disable_tqdm report_to run_name project
    trackio_space_id trackio_bucket_id trackio_static_space_id logging_dir prediction_loss_only
    eval_do_concat_batches eval_use_gather_object eval_accumulation_steps include_for_metrics
    batch_eval_metrics save_only_model save_on_each_node save_total_limit enable_jit_checkpoint
    push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision
    dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers
    dataloader_prefetch_factor dataloader_multiprocessing_context ddp_find_unused_parameters
    ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout debug
    skip_memory_metrics do_train do_eval do_predict resume_from_checkpoint
    restore_callback_states_from_checkpoint local_rank remove_unused_columns label_names
    cache_behavior fully_shard compile_layers
    """.split()
)
# Settings of stage two, which stage one does not read.
OF_VALUES = set(
    """
    leftover prior values backup support returns_first beta score target_rate train_behavior
    """.split()
)
# Settings that say when something is looked at or kept: they decide only what is best.
OF_EVALUATION = set(
    """
    eval_strategy eval_steps eval_delay eval_on_start save_strategy save_steps bf16_full_eval
    fp16_full_eval metric_for_best_model greater_is_better
    """.split()
)


def asks_support(args: QSFTConfig) -> bool:
    """Whether its least probability changes the targets."""
    paired = args.leftover == "paired" and args.backup in ("recorded", "behavior")
    return paired or args.backup in ("support", "policy")


def run_settings(args: QSFTConfig) -> dict[str, Any]:
    """Every setting that changes the weights."""
    left_out = set(NO_EFFECT)
    if args.stage == "behavior":
        left_out |= OF_VALUES
    if args.backup != "policy":
        left_out |= {"beta", "score"}
    if not asks_support(args):
        left_out |= {"support"}
    if args.leftover != "paired":
        left_out |= {"prior", "values"}
    if args.max_steps > 0:
        left_out |= {"num_train_epochs"}
    # Random targets are drawn in evaluations, too, from the same stream.
    if not args.load_best_model_at_end and args.backup != "random":
        left_out |= OF_EVALUATION
    names = [field.name for field in dataclasses.fields(args) if field.name not in left_out]
    settings = {name: getattr(args, name) for name in names}
    rows_per_process = args.train_batch_size * args.gradient_accumulation_steps
    return {**settings, "global_batch": rows_per_process * args.world_size}


def describe_run(
    args: QSFTConfig, module: torch.nn.Module, train: Any, validation: Any, **more: Any
) -> dict[str, Any]:
    """What a run is: its settings, rows, first weights, and which of them are trained.

    more: further things that make it another run.
    """
    trained = [name for name, weight in module.named_parameters() if weight.requires_grad]
    return {
        **run_settings(args),
        "rows": rows_hash(train),
        "validation": rows_hash(validation),
        **more,
        "weights": weights_hash(module),
        "trained": hashlib.sha256("\n".join(trained).encode()).hexdigest(),
    }


def check_same_run(folder: Path, run: dict[str, Any], *, write: bool) -> None:
    """Compare a run, or as much of it as is known, to what the folder's run.json says.

    write: whether to write it down where there is none.

    Raises:
        ValueError: the folder holds another run, or one that is not known.
    """
    path = folder / RUN
    run = json.loads(json.dumps(run, default=str))
    if path.exists():
        with named_if_damaged(path, f"delete {folder} to start anew"):
            before = json.loads(path.read_text(encoding="utf-8"))
            before.items()  # of a description, and of nothing else that JSON holds
        # A setting that the older version did not know had its default.
        defaults = {field.name: field.default for field in dataclasses.fields(QSFTConfig)}
        changed = [name for name in run if run[name] != before.get(name, defaults.get(name))]
        if changed:
            raise ValueError(
                f"{folder} holds another run, of other {', '.join(changed)}: delete it, or "
                "choose another output_dir"
            )
    elif checkpoints(folder) or (folder / "finished").exists():
        raise ValueError(
            f"{folder} holds checkpoints, but no {RUN} that says of what run: choose another "
            "output_dir"
        )
    elif write:
        replace_file(path, (json.dumps(run, indent=1) + "\n").encode())


def rows_hash(rows: Any) -> str | None:
    """SHA-256 of all packed rows; None for no rows, and for a stream, which has no length.

    Pictures are told by what they show, wherever they lie.
    """
    if not hasattr(rows, "__len__"):
        return None
    digest = hashlib.sha256(str(len(rows)).encode())
    if isinstance(rows, datasets.Dataset):
        for table in rows.with_format("arrow").iter(1000):
            for name in sorted({*table.column_names} & {*PACKED.names}):
                values = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
                digest.update(name.encode() + values.tobytes())
            if "images" in table.column_names:
                for images in table["images"].to_pylist():
                    digest.update(" ".join(map(image_digest, images)).encode())
    else:
        for index in range(len(rows)):
            for name, value in sorted(collate([rows[index]]).items()):
                digest.update(name.encode() + value.numpy().tobytes())
            for reference in rows[index].get("images", ()):
                digest.update(image_digest(str(reference)).encode())
    return digest.hexdigest()


def weights_hash(module: torch.nn.Module) -> str:
    """SHA-256 of all weights and their names."""
    digest = hashlib.sha256()
    for name, weight in sorted(module.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


# Checkpoints


def checkpoints(folder: Path) -> list[Path]:
    """The folders checkpoint-1, checkpoint-2, ..., newest first."""
    steps = {path: path.name.removeprefix("checkpoint-") for path in folder.glob("checkpoint-*")}
    folders = [path for path, step in steps.items() if step.isdigit() and path.is_dir()]
    return sorted(folders, key=lambda path: int(steps[path]), reverse=True)


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint in the folder that was written to its end; None where there is none."""
    return next((str(path) for path in checkpoints(folder) if whole_state(path)), None)


def whole_state(checkpoint: Path) -> TrainerState | None:
    """The Trainer's state, which it writes last; None where the checkpoint lacks something.

    Without the optimizer's, the schedule's and the random state a run would go on, to other
    weights.
    """
    for needed in (WEIGHTS, "optimizer.pt", "scheduler.pt", "rng_state*"):
        if not any(checkpoint.glob(needed)):
            return None
    try:
        state = TrainerState.load_from_json(str(checkpoint / STATE))
    except Exception:  # half-written, it may be anything
        return None
    return state if state.global_step else None
