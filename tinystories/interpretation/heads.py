"""What each attention head looks at: near tokens, certain tokens, names, repetitions."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tinystories.activations import attention
from tinystories.interpretation.stories import ModelWithStories, Story, nats

SCORES = ("previous", "first", "same_token", "induction")
DISTANCES = 64  # of by_distance
SHORTEST, FEWEST_IDS = 32, 64  # block_size and vocabulary that the repetition test needs
REPEATED = 32  # sequences of random ids
SEED = 1337


class Tally:
    """Sums over queries, for each head of a layer: attention, and what uniform attention gives."""

    def __init__(self, heads: int, vocab_size: int, length: int):
        self.sums: dict[str, np.ndarray] = {}
        self.uniform: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        # By distance and by token that is looked at: pairs of tokens, and their attention.
        self.pairs = [np.zeros(size) for size in (length, vocab_size)]
        self.attended = [np.zeros((heads, size)) for size in (length, vocab_size)]
        self.squares = np.zeros(heads)

    def add(self, name: str, attention: Tensor, uniform: Tensor) -> None:
        """Attention (H, queries), and uniform attention (queries,) to the same keys."""
        sums = attention.double().sum(1).numpy()
        self.sums[name] = self.sums.get(name, 0) + sums
        self.uniform[name] = self.uniform.get(name, 0) + uniform.double().sum().item()
        self.counts[name] = self.counts.get(name, 0) + attention.shape[1]

    def add_pairs(self, pattern: Tensor, visible: Tensor, x: Tensor) -> None:
        """The attention (H, T, T) of a story by distance and by token, its first token apart."""
        T = len(x)
        place = torch.arange(T)
        query, key = torch.nonzero(visible & (place > 0), as_tuple=True)
        values = pattern[:, query, key].double()
        self.squares += (values**2).sum(1).numpy()
        for i, groups in enumerate((query - key, x[key])):
            size = self.attended[i].shape[1]
            sums = torch.zeros(len(pattern), size, dtype=torch.double)
            self.attended[i] += sums.index_add_(1, groups, values).numpy()
            self.pairs[i] += torch.bincount(groups, minlength=size).numpy()

    def explained(self) -> np.ndarray:
        """The share of the attention's variance between distances, and between tokens, (2, H)."""
        shares = []
        for pairs, attended in zip(self.pairs, self.attended, strict=True):
            mean = attended.sum(1) / max(1, pairs.sum())
            total = self.squares - pairs.sum() * mean**2
            between = (attended**2 / np.maximum(pairs, 1)).sum(1) - pairs.sum() * mean**2
            flat = total <= 1e-12 * np.maximum(self.squares, 1e-300)
            shares.append(np.where(flat, 0, between / np.where(flat, 1, total)))
        return np.array(shares)


def measure(subject: ModelWithStories) -> tuple[list[dict], dict]:
    """The scores of each head, as in interpret.json, and the loss of what is read twice."""
    length = max(len(story.x) for story in subject.stories)
    tallies: list[Tally] = []
    for batch, x, _ in subject.batches():
        ids = x.cpu()

        def visit(layer: int, pattern: Tensor, visible: Tensor, batch=batch, ids=ids) -> None:
            if layer == len(tallies):
                vocab_size = subject.model.config.vocab_size
                tallies.append(Tally(pattern.shape[1], vocab_size, length))
            # On the CPU, since not every device has float64 for the sums.
            pattern, visible = pattern.cpu(), visible.cpu()
            seen = visible.expand(len(batch), 1, *pattern.shape[2:])[:, 0]
            for row, story in enumerate(batch):
                n = len(story.x)
                own = pattern[row, :, :n, :n], seen[row, :n, :n]
                tally(tallies[layer], story, ids[row, :n], *own)

        attention(subject.model, x, visit)
    repeat = repetitions(subject, tallies)
    found = [
        result(each, layer, head)
        for layer, each in enumerate(tallies)
        for head in range(len(each.squares))
    ]
    return found, repeat


def tally(tally: Tally, story: Story, x: Tensor, pattern: Tensor, visible: Tensor) -> None:
    """Add one story; pattern (H, T, T), visible (T, T)."""
    T = len(x)
    uniform = visible / visible.sum(1, keepdim=True)
    place = torch.arange(T)
    entropy = torch.special.entr(pattern).sum(-1) / np.log(2)
    tally.add("entropy_bits", entropy, torch.log2(visible.sum(1)))
    tally.add("previous", pattern[:, place[1:], place[:-1]], uniform[place[1:], place[:-1]])
    tally.add("first", pattern[:, :, 0], uniform[:, 0])
    same = (x[:, None] == x) & visible & (place < place[:, None])
    rows = same.any(1)
    tally.add("same_token", (pattern * same).sum(-1)[:, rows], (uniform * same).sum(-1)[rows])
    if story.mentions:
        earlier = torch.zeros_like(visible)
        for query, keys in story.mentions:
            earlier[query, keys] = True
        rows = (earlier & visible).any(1)
        tally.add("name", (pattern * earlier).sum(-1)[:, rows], (uniform * earlier).sum(-1)[rows])
    tally.add_pairs(pattern, visible, x)


def repetitions(subject: ModelWithStories, tallies: list[Tally]) -> dict:
    """Let the model read random ids twice, and stories twice: losses, and induction in tallies.

    Induction is attention to the token behind the one that is the same, in the second reading.
    Windows have no end of text inside, since a model may not look across it.
    """
    size, ids = subject.model.config.block_size, subject.tokenizer.vocab_size
    if size < SHORTEST or ids < FEWEST_IDS:
        return {"story": None, "random": None}
    half = (size - 1) // 2
    end, rng = subject.tokenizer.end_of_text, np.random.RandomState(SEED)
    known = np.array([i for i in range(ids) if i not in (end, subject.tokenizer.first_id)])
    # No id twice in a text, where there are enough of them.
    once = [rng.choice(known, half, replace=half > len(known)) for _ in range(REPEATED)]
    losses = {"random": read_twice(subject, once, tallies)}
    own = [story.y[:half] for story in subject.stories if len(story.y) > half]
    losses["story"] = read_twice(subject, own, [])
    return losses


def read_twice(subject: ModelWithStories, once: list, tallies: list[Tally]) -> list[float] | None:
    """The loss per token of texts of equal length in the first and in the second reading.

    Induction is added to the tallies, if there are any.
    """
    if not once:
        return None
    n = len(once[0])
    first = subject.tokenizer.first_id
    texts = torch.tensor(np.array([[first, *ids, *ids] for ids in once]), device=subject.device)

    def visit(layer: int, pattern: Tensor, visible: Tensor) -> None:
        query = torch.arange(
            n + 1, 2 * n, device=texts.device
        )  # not n: its id comes for the first time
        found = pattern[:, :, query, query - n + 1].transpose(0, 1).flatten(1)
        seen = visible.expand(len(pattern), 1, *pattern.shape[2:])[:, 0]
        uniform = seen[:, query, query - n + 1] / seen[:, query].sum(-1)
        tallies[layer].add("induction", found.cpu(), uniform.flatten().cpu())

    losses = []
    with torch.no_grad():
        for part in texts.split(16):
            x, y = part[:, :-1], part[:, 1:]
            if tallies:
                attention(subject.model, x, visit)
            losses.append(nats(subject.model(x), y))
    each = torch.cat(losses)
    # Without the first id of each reading: nothing before it says that the text begins again.
    return [each[:, 1:n].mean().item(), each[:, n + 1 :].mean().item()]


def result(tally: Tally, layer: int, head: int) -> dict[str, Any]:
    """A head's entry in interpret.json."""

    def mean(name: str) -> dict[str, float] | None:
        if not (count := tally.counts.get(name)):
            return None
        values = tally.sums[name][head] / count, tally.uniform[name] / count
        return dict(zip(("attention", "uniform"), map(float, values), strict=True))

    scores = {name: mean(name) for name in (*SCORES, "name")}
    entropy = tally.sums["entropy_bits"][head] / tally.counts["entropy_bits"]
    distance, token = tally.explained()[:, head]
    by_distance = tally.attended[0][head] / np.maximum(tally.pairs[0], 1)
    return {
        "layer": layer,
        "head": head,
        "entropy_bits": float(entropy),
        **scores,
        "name_tokens": tally.counts.get("name", 0),
        "explained": {"distance": float(distance), "token": float(token)},
        "by_distance": by_distance[:DISTANCES].tolist(),
    }


def head_name(head: dict) -> str:
    """How a head is called: layer.head, both from 0."""
    return f"{head['layer']}.{head['head']}"


def times_uniform(head: dict, score: str) -> float | None:
    """How many times as much attention as uniform attention would give; None if not measured."""
    values = head[score]
    return values["attention"] / values["uniform"] if values and values["uniform"] else None
