"""The optimizer: AdamW or Muon, gradient clipping, loss scaling in float16, a non-finite check;
the average of the weights.
"""

import math
from itertools import chain

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from configurator import UserError
from model import GPT
from tinystories.device import Hardware

# Polar Express (Amsel et al. 2025, arXiv 2505.16932): for singular values from 0.001 to 1, the odd
# polynomials a x + b x^3 + c x^5 that come closest to 1 step by step; the first three of its table.
POLYNOMIALS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
)


def orthogonalize(matrices: Tensor) -> Tensor:
    """Each matrix U S V^T with other singular values, all below 1.9 and more equal: nearer U V^T.

    Args:
        matrices: shape (N, rows, columns); the products are computed in their dtype.
    """
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT  # the smaller of its two Gram matrices
    x = x / (1.02 * x.norm(dim=(1, 2), keepdim=True) + 1e-6)  # singular values below 1
    for a, b, c in POLYNOMIALS:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """Momentum whose matrix is orthogonalized before each update (Jordan et al. 2024).

    torch.optim.Muon does the same matrix by matrix, always in bfloat16 and with other polynomials.
    Here all matrices of one shape share their products.
    """

    def __init__(
        self, matrices: list[tuple[torch.nn.Parameter, int]], dtype: torch.dtype, **options
    ):
        """`matrices` as GPT.block_matrices; `dtype` of the products; lr, momentum, weight_decay."""
        by_shape = {}
        for parameter, count in matrices:
            shape = (len(parameter) // count, parameter.shape[1])
            by_shape.setdefault(shape, []).append(parameter)
        groups = [{"params": params, "shape": shape} for shape, params in by_shape.items()]
        super().__init__(groups, options)
        self.dtype = dtype

    @torch.no_grad()
    def step(self) -> None:
        """Update the matrices."""
        for group in self.param_groups:
            rows, columns = group["shape"]
            updates = []
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(p)
                momentum = state["momentum_buffer"].lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(momentum, group["momentum"])  # Nesterov's
                updates.append(update.view(-1, rows, columns).to(self.dtype))
            orthogonal = orthogonalize(torch.cat(updates)).flatten(0, 1)
            rate = group["lr"] * max(1, rows / columns) ** 0.5  # as published
            rate = min(rate, torch.finfo(torch.float32).max)
            parts = orthogonal.split([len(p) for p in group["params"]])
            for p, part in zip(group["params"], parts, strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(part, alpha=-rate)

    def load_state_dict(self, state_dict: dict) -> None:
        """Take over the rate, and momentum by shape and order: versions group them differently."""
        for group in self.param_groups:
            group["lr"] = state_dict["param_groups"][0]["lr"]  # all groups have the same
        saved: dict[torch.Size, list[Tensor]] = {}
        for _, state in sorted(state_dict["state"].items()):  # none before the first step
            momentum = state["momentum_buffer"]
            saved.setdefault(momentum.shape, []).append(momentum)
        for p in chain.from_iterable(group["params"] for group in self.param_groups):
            if saved:
                self.state[p] = {"momentum_buffer": saved[p.shape].pop(0).to(p.device)}


class Optimizer:
    """AdamW, or Muon for the matrices inside blocks and AdamW for the rest, and what goes with it.

    Attributes:
        groups: the parameter groups; each has its peak learning rate in "initial_lr".
        first_bad: step, rate, loss and gradient norm of the first step that was not finite.
    """

    def __init__(self, model: GPT, hardware: Hardware, s):
        """`s` is train.py's Settings."""
        self.model, self.hardware = model, hardware
        self.learning_rate, self.grad_clip = s.learning_rate, s.grad_clip
        matrices = model.block_matrices() if s.optimizer == "muon" else []
        of_muon = {id(parameter) for parameter, _ in matrices}
        groups = [
            {"params": [p for p in params if id(p) not in of_muon], "weight_decay": decay}
            for params, decay in zip(model.param_groups(), (s.weight_decay, 0.0), strict=True)
        ]
        options = {"betas": (s.beta1, s.beta2), "fused": True, "lr": s.learning_rate}
        # By their names in a checkpoint.
        self.parts: dict[str, torch.optim.Optimizer] = {}
        self.parts["optimizer"] = torch.optim.AdamW(groups, **options)
        if matrices:
            dtype = torch.float32 if hardware.dtype == torch.float16 else hardware.dtype
            options = {"lr": s.muon_learning_rate, "momentum": s.beta1}
            self.parts["muon"] = Muon(matrices, dtype, **options, weight_decay=s.weight_decay)
        for group in self.groups:
            group["initial_lr"] = group["lr"]
        in_float16 = hardware.dtype == torch.float16
        self.scaler = torch.amp.GradScaler(hardware.device.type, enabled=in_float16)
        # The check stays on the device until `check` asks for it: asking waits for the device.
        self.is_bad = torch.zeros((), dtype=torch.bool, device=hardware.device)
        self.first_bad = torch.zeros(4, device=hardware.device)

    @property
    def groups(self) -> list[dict]:
        return [group for part in self.parts.values() for group in part.param_groups]

    def zero_grad(self) -> None:
        """Forget the gradients of the last step."""
        for part in self.parts.values():
            part.zero_grad(set_to_none=True)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a micro-batch's loss."""
        self.scaler.scale(loss).backward()

    def step(self, rate: float, loss: Tensor, step: int) -> Tensor:
        """Clip the gradients and update the weights.

        Args:
            rate: the learning rate; groups with another initial_lr take the same multiple of it.
            loss: the mean loss of the step, on the device; only checked.
            step: the number of this step, from 1.

        Returns:
            the norm of the gradient before clipping, on the device.
        """
        for part in self.parts.values():
            self.scaler.unscale_(part)
        parameters = self.model.parameters()
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.grad_clip or math.inf)
        for group in self.groups:
            group["lr"] = rate * (group["initial_lr"] / self.learning_rate)
        # GradScaler looks at each part alone; what overflows in one of two skips both.
        if len(self.parts) == 1 or not self.scaler.is_enabled() or norm.isfinite():
            for part in self.parts.values():
                self.scaler.step(part)
        self.scaler.update()
        bad = ~loss.isfinite()
        if not self.scaler.is_enabled():  # in float16 GradScaler skips gradients that overflow
            bad = bad | ~norm.isfinite()
        rate = min(rate, torch.finfo(torch.float32).max)
        numbers = torch.stack([loss.new_full((), step), loss.new_full((), rate), loss, norm])
        self.first_bad = torch.where(bad & ~self.is_bad, numbers, self.first_bad)
        self.is_bad = self.is_bad | bad
        return norm

    def check(self) -> None:
        """Wait for the device, and raise UserError if a step was not finite."""
        if self.is_bad.item():
            step, rate, loss, norm = self.first_bad.tolist()
            raise UserError(
                f"step {step:.0f}: loss or gradient is not finite (loss {loss:.4g}, gradient norm "
                f"{norm:.4g}, learning rate {rate:.3g}); {self._advice()}"
            )
        if self.scaler.is_enabled() and self.scaler.get_scale() < 1:  # it began at 65,536
            raise UserError(f"float16 gradients overflow at any loss scale; {self._advice()}")

    @torch.no_grad()
    def check_weights(self) -> None:
        """Like `check`, and raise UserError if weights or their logits are not finite.

        Called before anything is written, so that what is on the disk can be used.
        """
        self.check()
        model, device = self.model, self.hardware.device
        idx = torch.arange(min(32, model.config.block_size), device=device)[None]
        with self.hardware.autocast():
            values = [model.eval()(idx), *model.parameters()]
        model.train()
        if not torch.stack([value.isfinite().all() for value in values]).all():
            raise UserError(f"the weights have grown until logits are not finite; {self._advice()}")

    def _advice(self) -> str:
        in_float32 = self.hardware.dtype == torch.float32
        remedy = "a lower learning_rate" + ("" if in_float32 else " or --dtype=float32")
        return f"resume from the last checkpoint, or start again (--overwrite=True), with {remedy}"

    def state_dict(self) -> dict:
        """What a checkpoint keeps: the states of AdamW, of Muon and of the loss scale."""
        states = {name: part.state_dict() for name, part in self.parts.items()}
        return states | {"scaler": self.scaler.state_dict()}

    def load_state_dict(self, saved: dict) -> None:
        """Take over the states from a checkpoint, but keep this run's own settings.

        Raises UserError if the checkpoint is of a run with another optimizer.
        """
        if ("muon" in saved) != ("muon" in self.parts):
            trained_with = "muon" if "muon" in saved else "adamw"
            raise UserError(f"the run was trained with optimizer={trained_with}; it keeps it")
        kept = ("params", "lr")  # of these, lr is set anew at every step
        own = [{k: v for k, v in group.items() if k not in kept} for group in self.groups]
        for name, part in self.parts.items():
            part.load_state_dict(saved[name])
        for group, options in zip(self.groups, own, strict=True):
            group |= options
        if saved["scaler"]:  # empty where the run was not in float16 before
            self.scaler.load_state_dict(saved["scaler"])


class AveragedWeights(AveragedModel):
    """A copy of a model that averages its weights in float32, most of all over `span` steps.

    An exponential moving average with the decay 1 - 1 / span, once as many steps have been
    averaged. Before that it is their plain mean, so that the first weights do not weigh more.
    """

    module: GPT

    def __init__(self, model: GPT, span: float):
        super().__init__(model)
        self.span = span

    @torch.no_grad()
    def update_parameters(self, model: GPT) -> None:
        """Average the weights of `model`, too.

        AveragedModel's own waits for the device at each parameter.
        """
        share = max(1 / (int(self.n_averaged) + 1), min(1.0, 1 / self.span))
        for average, weights in zip(self.module.parameters(), model.parameters(), strict=True):
            average.lerp_(weights, share)
        self.n_averaged += 1
