"""The loss of texts: which ids are predicted, and from what."""

import math

import numpy as np
import pytest
import torch

from tinystories.device import select_hardware
from tinystories.loss import loss_per_text, text_windows
from tinystories.run import load_model


@pytest.mark.parametrize("length", [2, 3, 9, 10, 11, 24, 60])
@pytest.mark.parametrize("block_size", [1, 2, 7, 8])
def test_windows_predict_each_id_once_and_from_half_a_window_at_least(length, block_size):
    windows = text_windows([np.arange(length)], block_size)
    predicted = []
    for window in windows:
        assert window.length <= block_size
        ids = range(window.start + window.first_new + 1, window.start + window.length + 1)
        assert all(i - window.start >= min(i, block_size // 2) for i in ids)
        predicted += ids
    assert predicted == list(range(1, length))


def test_only_the_ids_after_the_context_count(run):
    model, tokenizer, _ = load_model(run)
    prompt = [tokenizer.end_of_text, *tokenizer.encode("The cat sat")]
    ids = prompt + tokenizer.encode(" down.")
    with torch.no_grad():
        logs = model(torch.tensor([ids]))[0].log_softmax(-1)
    nats = -sum(logs[i - 1, ids[i]].item() for i in range(len(prompt), len(ids)))
    hardware, size = select_hardware("cpu", "float32"), len(" down.")
    (loss,) = loss_per_text(model, [np.array(ids)], [len(prompt)], [size], hardware)
    assert loss.bits_per_byte == pytest.approx(nats / math.log(2) / len(" down."), rel=1e-5)
