"""Muon, against the singular value decomposition and against torch's own."""

import pytest
import torch

from configurator import UserError
from model import GPT, GPTConfig
from tinystories import optim
from tinystories.device import select_hardware
from train import Settings


def small(**changes) -> GPT:
    torch.manual_seed(1)
    return GPT(GPTConfig(300, 16, n_layer=2, n_head=2, n_embd=32, **changes))


def make(gpt: GPT, **settings) -> optim.Optimizer:
    return optim.Optimizer(gpt, select_hardware("cpu", "float32"), Settings(**settings))


def random_gradients(gpt: GPT) -> None:
    for parameter in gpt.parameters():
        parameter.grad = torch.randn_like(parameter)


@pytest.mark.parametrize("shape", [(5, 32, 32), (2, 96, 24), (3, 24, 96)])
def test_singular_values_become_more_equal_and_the_directions_stay(shape):
    torch.manual_seed(0)
    u, _, vh = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    matrices = u * torch.logspace(-1.5, 0, u.shape[2]) @ vh  # singular values from 0.03 to 1
    # In the coordinates of its singular vectors the result is diagonal.
    inner = u.mT @ optim.orthogonalize(matrices) @ vh.mT
    diagonal = inner.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(inner, torch.diag_embed(diagonal), atol=1e-4, rtol=0)
    assert diagonal.min() > 0.1 and diagonal.max() < 1.9


@pytest.mark.parametrize("shape", [(32, 32), (96, 32), (32, 96)])
def test_a_step_is_that_of_torchs_muon(monkeypatch, shape):
    monkeypatch.setattr(optim, "POLYNOMIALS", 5 * [(3.4445, -4.7750, 2.0315)])
    torch.manual_seed(0)
    start = torch.randn(shape)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    options = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1}
    optimizers = (
        optim.Muon([(ours, 1)], torch.float32, **options),
        torch.optim.Muon([theirs], **options),
    )
    for _ in range(3):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    moved, expected = (p.detach() - start for p in (ours, theirs))
    # Theirs computes in bfloat16, and ours divides by 1.02 times the norm.
    assert torch.cosine_similarity(moved.flatten(), expected.flatten(), dim=0) > 0.99
    assert 0.95 < moved.norm() / expected.norm() < 1.05


@pytest.mark.parametrize("arch", ["gpt2", "qwen3"])
def test_matrices_that_share_a_parameter_are_orthogonalized_one_by_one(arch):
    gpt = small(arch=arch)
    before = [p.detach().clone() for p, _ in gpt.block_matrices()]
    optimizer = make(gpt, optimizer="muon", weight_decay=0.0, muon_learning_rate=0.1, grad_clip=0.0)
    random_gradients(gpt)
    optimizer.step(1e-3, torch.tensor(1.0), step=1)
    for (p, count), old in zip(gpt.block_matrices(), before, strict=True):
        for part, gradient in zip((p - old).chunk(count), p.grad.chunk(count), strict=True):
            rows, columns = part.shape
            expected = -0.1 * max(1, rows / columns) ** 0.5 * optim.orthogonalize(gradient[None])[0]
            torch.testing.assert_close(part, expected, atol=1e-5, rtol=1e-3)


def test_heads_and_groups_of_hidden_units_are_matrices_of_their_own():
    def counts(**shape) -> list[int]:
        return [count for _, count in GPT(GPTConfig(300, 16, n_layer=1, **shape)).block_matrices()]

    assert counts(n_head=6, n_embd=192) == [18, 1, 12, 1]  # 3 x 6 heads; 768 units
    assert counts(n_head=3, n_embd=192, arch="qwen3") == [9, 1, 16, 1]  # gate and up: 512 each
    assert counts(n_head=2, n_embd=100, head_dim=24, arch="qwen3") == [6, 1, 9, 1]


def test_muon_takes_the_matrices_of_blocks_and_both_follow_one_schedule():
    gpt = small(arch="qwen3")
    optimizer = make(gpt, optimizer="muon", learning_rate=1e-3, muon_learning_rate=0.02)
    taken = [id(p) for group in optimizer.groups for p in group["params"]]
    assert sorted(taken) == sorted(map(id, gpt.parameters()))  # each once
    muon = [id(p) for group in optimizer.parts["muon"].param_groups for p in group["params"]]
    assert set(muon) == {id(p) for p, _ in gpt.block_matrices()}
    random_gradients(gpt)
    optimizer.step(5e-4, torch.tensor(1.0), step=1)
    assert {group["lr"] for group in optimizer.groups} == {5e-4, 0.01}


def test_a_saved_state_is_continued_with_the_settings_of_this_run():
    gpt, copy = small(), small()
    first = make(gpt, optimizer="muon", weight_decay=0.1)
    random_gradients(gpt)
    first.step(1e-3, torch.tensor(1.0), step=1)
    second = make(copy, optimizer="muon", weight_decay=0.3, muon_learning_rate=0.05)
    second.load_state_dict(first.state_dict())
    for name, part in second.parts.items():
        decays = {group["weight_decay"] for group in part.param_groups}
        assert decays == ({0.3, 0.0} if name == "optimizer" else {0.3})
    assert second.parts["muon"].param_groups[0]["initial_lr"] == 0.05
    saved_again = (optimizer.state_dict() for optimizer in (first, second))
    rates = [
        [group["lr"] for part in ("optimizer", "muon") for group in state[part]["param_groups"]]
        for state in saved_again
    ]
    assert rates[0] == rates[1]  # a run that resumes after its last step saves the same
    states = (part.state_dict()["state"] for part in (first.parts["muon"], second.parts["muon"]))
    for mine, loaded in zip(*(state.values() for state in states), strict=True):
        assert torch.equal(mine["momentum_buffer"], loaded["momentum_buffer"])


def test_momentum_is_continued_however_a_version_groups_the_matrices():
    gpt = small(arch="qwen3")
    saved = make(gpt, optimizer="muon").state_dict()["muon"]
    second = make(gpt, optimizer="muon").parts["muon"]
    second.load_state_dict(saved)  # of a run that was stopped before its first step
    assert not second.state
    parameters = [p for p, _ in gpt.block_matrices()]
    buffers = [torch.randn_like(p) for p in parameters]
    # As an earlier version grouped them: queries, keys and values like the output projection.
    order = sorted(range(len(parameters)), key=lambda n: parameters[n].shape[1])
    state = {n: {"momentum_buffer": buffers[place]} for n, place in enumerate(order)}
    second.load_state_dict(saved | {"state": state})
    for parameter, buffer in zip(parameters, buffers, strict=True):
        assert torch.equal(second.state[parameter]["momentum_buffer"], buffer)


@pytest.mark.parametrize("grad_clip", [0.0, 1.0])
@pytest.mark.parametrize("where", ["block", "embedding"])
def test_in_float16_one_overflow_skips_the_whole_step(where, grad_clip):
    gpt = small()
    hardware = select_hardware("cpu", "float16")
    optimizer = optim.Optimizer(gpt, hardware, Settings(optimizer="muon", grad_clip=grad_clip))
    before = [parameter.detach().clone() for parameter in gpt.parameters()]
    optimizer.backward(sum(parameter.sum() for parameter in gpt.parameters()))
    weight = gpt.wte.weight if where == "embedding" else gpt.h[0].mlp.c_fc.weight
    weight.grad[0, 0] = torch.inf
    scale = optimizer.scaler.get_scale()
    optimizer.step(1e-3, torch.ones(()), 1)
    for parameter, old in zip(gpt.parameters(), before, strict=True):
        assert torch.equal(parameter, old)
    assert optimizer.scaler.get_scale() == scale / 2
    optimizer.zero_grad()
    optimizer.backward(sum(parameter.sum() for parameter in gpt.parameters()))
    optimizer.step(1e-3, torch.ones(()), 2)
    assert not torch.equal(gpt.wte.weight, before[0])
    optimizer.check()


def test_a_rate_beyond_float32_is_no_obstacle_for_muon():
    gpt = small()
    random_gradients(gpt)
    optimizer = make(gpt, optimizer="muon", muon_learning_rate=1e39)
    optimizer.step(Settings.learning_rate, torch.ones(()), 1)
    optimizer.check()


@pytest.mark.parametrize(("now", "before"), [("adamw", "muon"), ("muon", "adamw")])
def test_another_optimizer_cannot_continue(now, before):
    saved = make(small(), optimizer=before).state_dict()
    with pytest.raises(UserError, match=f"trained with optimizer={before}"):
        make(small(), optimizer=now).load_state_dict(saved)


def test_the_average_begins_as_a_mean_and_goes_on_as_a_moving_average():
    gpt = small()
    average = optim.AveragedWeights(gpt, span=4)
    history, weights = [], next(gpt.parameters())
    for step in range(1, 9):
        torch.nn.init.normal_(weights, mean=step)
        history.append(weights.detach().double())
        average.update_parameters(gpt)
        expected = sum(history[:4]) / len(history[:4])  # then each new one weighs a quarter
        for later in history[4:]:
            expected = expected * 0.75 + later * 0.25
        result = next(average.module.parameters()).double()
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


def test_an_average_over_less_than_a_step_is_the_weights():
    gpt = small()
    average = optim.AveragedWeights(gpt, span=0.1)
    for _ in range(3):
        torch.nn.init.normal_(gpt.wte.weight)
        average.update_parameters(gpt)
        torch.testing.assert_close(average.module.wte.weight, gpt.wte.weight)
