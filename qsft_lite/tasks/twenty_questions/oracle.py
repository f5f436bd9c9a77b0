"""A language model that answers the questions of Twenty Questions, in the table's place."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

PROMPT = "Answer the question about the object with Yes or No.\nObject: {name}\n{question}\nAnswer:"
ANSWERS = ("Yes", "No")
REMEMBERED = 100_000  # answers; there are fewer known questions about all objects


class LanguageModelOracle:
    """Answers what the model finds more probable after the prompt, "Yes" or "No".

    Any causal or sequence-to-sequence model of transformers, such as google/flan-t5-small. The same
    question about the same object always gets the same answer, and is asked of the model once.

    model, tokenizer: as transformers makes them; see `from_pretrained`. prompt: a text with the
    fields {name} and {question}.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompt: str = PROMPT,
    ) -> None:
        if "{name}" not in prompt or "{question}" not in prompt:
            raise ValueError(f"the prompt needs the fields {{name}} and {{question}}: {prompt!r}")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.prompt = prompt
        self._answers: dict[tuple[str, str], bool] = {}

    def __deepcopy__(self, memo: dict) -> LanguageModelOracle:
        return self

    @classmethod
    def from_pretrained(
        cls, name_or_folder: str | Path, *, prompt: str = PROMPT, device: str = "cpu"
    ) -> LanguageModelOracle:
        """The oracle of a model by its id on the Hugging Face hub or a folder, with its tokenizer.

        Weights are read from safetensors only, and no code of the model's authors is run.
        """
        config = AutoConfig.from_pretrained(name_or_folder, trust_remote_code=False)
        kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model = kind.from_pretrained(name_or_folder, trust_remote_code=False, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(name_or_folder, trust_remote_code=False)
        return cls(model.to(device), tokenizer, prompt)

    def answer(self, name: str, question: str) -> bool:
        """Whether the model says yes to the question about the object."""
        key = name, question
        if key not in self._answers:
            if len(self._answers) >= REMEMBERED:
                self._answers.clear()
            yes, no = (self.log_probability(name, question, answer) for answer in ANSWERS)
            self._answers[key] = yes > no
        return self._answers[key]

    @torch.no_grad()
    def log_probability(self, name: str, question: str, answer: str) -> float:
        """The model's log-probability of all tokens of an answer, given the prompt."""
        # Not str.format: a question may hold braces.
        parts = self.prompt.replace("{name}", name).partition("{question}")
        asked = self.tokenizer(parts[0] + question + parts[2], return_tensors="pt")["input_ids"]
        if self.model.config.is_encoder_decoder:
            said = self._answer_ids(answer)
            logits = self.model(input_ids=asked.to(self.model.device), labels=said).logits[0]
        else:
            said = self._answer_ids(" " + answer)
            both = torch.cat([asked.to(said.device), said], dim=1)
            logits = self.model(input_ids=both).logits[0, asked.shape[1] - 1 : -1]
        log_probabilities = logits.float().log_softmax(dim=-1)
        return float(log_probabilities.gather(1, said[0, :, None]).sum())

    def _answer_ids(self, answer: str) -> torch.Tensor:
        tokens = self.tokenizer(answer, add_special_tokens=False, return_tensors="pt")
        return tokens["input_ids"].to(self.model.device)
