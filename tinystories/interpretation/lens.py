"""The logit lens: what the model would predict if its later layers were left out."""

import math

import numpy as np
import torch

from configurator import UserError
from tinystories.activations import logits_of, residuals
from tinystories.interpretation.stories import ModelWithStories, Story, nats


@torch.no_grad()
def measure(subject: ModelWithStories) -> list[float]:
    """Bits per byte of the stories after each layer; the last one is the model's own.

    Raises UserError if the last layer does not lead to the model's logits: then the model does
    something behind its blocks that is not known here.
    """
    total = np.zeros(subject.num_layers)
    for number, (_, x, y) in enumerate(subject.batches()):
        streams = residuals(subject.model, x)[1:]
        if not number:
            own = subject.model(x[:1])
            if not torch.allclose(logits_of(subject.model, streams[-1][:1]), own, atol=1e-3):
                raise UserError("no lens: this model has more between its blocks and its logits")
        for layer, stream in enumerate(streams):
            total[layer] += nats(logits_of(subject.model, stream), y).sum().item()
    size = sum(story.bytes for story in subject.stories)
    return (total / math.log(2) / max(1, size)).tolist()


@torch.no_grad()
def of_story(subject: ModelWithStories, story: Story) -> tuple[np.ndarray, np.ndarray]:
    """For each layer and token of one text: the likeliest id, and the probability of the right one.

    Both (L, T).
    """
    x = torch.from_numpy(story.x)[None].to(subject.device)
    y = torch.from_numpy(story.y).long().to(subject.device)
    best, right = [], []
    for stream in residuals(subject.model, x)[1:]:
        probs = logits_of(subject.model, stream)[0].float().softmax(-1)
        best.append(probs.argmax(-1).cpu().numpy())
        right.append(probs.gather(1, y[:, None])[:, 0].cpu().numpy())
    return np.array(best), np.array(right)
