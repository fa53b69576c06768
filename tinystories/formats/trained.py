"""What a module of this folder exports: a trained model with everything known about it."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from configurator import UserError
from model import GPT
from tinystories.tokenizer import Tokenizer


class NotExportable(UserError):
    """Why a format cannot hold a model."""


@dataclass
class TrainedModel:
    """A model and where it comes from."""

    folder: Path  # of the run
    model: GPT
    tokenizer: Tokenizer
    state: dict  # the checkpoint
    settings: dict  # of the run; empty if they are not known
    evaluation: dict[str, dict[str, str]] = field(default_factory=dict)  # evaluate.py's table
    gguf_dtype: str = "f16"  # how gguf stores matrices

    @property
    def name(self) -> str:
        """The name of the run, which exported files bear; as text, whatever the disk allows."""
        return os.fsencode(self.folder.resolve().name).decode(errors="replace")

    def own_stories(self, count: int = 3) -> list[Tensor]:
        """Ids (T,) of stories that the model generates: the same ones every time.

        Each begins with end of text where the vocabulary has it, and fits into the context window.
        """
        first, end = self.tokenizer.first_id, self.tokenizer.end_of_text
        idx = torch.full((count, 1), first)
        generator = torch.Generator().manual_seed(0)
        length = self.model.config.block_size - 1
        new = self.model.generate(idx, length, end, generator)
        rows = torch.cat([idx, *(ids[:, None] for ids in new)], dim=1)
        ends = [0 if end is None else int((row[1:] == end).sum()) for row in rows]
        lengths = [len(row) - count for row, count in zip(rows, ends, strict=True)]
        return [row[:length] for row, length in zip(rows, lengths, strict=True)]

    def difference(self, model: GPT) -> float:
        """The largest difference of logits between another model and this one, on own_stories."""
        with torch.inference_mode():
            return max(
                (model(ids[None]) - self.model(ids[None])).abs().max().item()
                for ids in self.own_stories()
            )
