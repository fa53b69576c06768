"""The optimizer: AdamW with gradient clipping, loss scaling in float16, and a non-finite check."""

import math

import torch
from torch import Tensor

from configurator import UserError
from model import GPT
from tinystories.device import Hardware


class Optimizer:
    """AdamW, gradient clipping, GradScaler and the non-finite check in one.

    Attributes:
        groups: the parameter groups; each has its peak learning rate in "initial_lr".
        first_bad: step, rate, loss and gradient norm of the first step that was not finite.
    """

    def __init__(self, model: GPT, hardware: Hardware, s):
        """`s` is train.py's Settings."""
        self.model, self.hardware = model, hardware
        self.learning_rate, self.grad_clip = s.learning_rate, s.grad_clip
        self.options = {"betas": (s.beta1, s.beta2), "fused": True, "initial_lr": s.learning_rate}
        self.decays = (s.weight_decay, 0.0)
        groups = [
            {"params": params, "weight_decay": decay} | self.options
            for params, decay in zip(model.param_groups(), self.decays, strict=True)
        ]
        self.adamw = torch.optim.AdamW(groups, lr=s.learning_rate, fused=True)
        self.groups = self.adamw.param_groups
        in_float16 = hardware.dtype == torch.float16
        self.scaler = torch.amp.GradScaler(hardware.device.type, enabled=in_float16)
        # The check stays on the device until `check` asks for it: asking waits for the device.
        self.is_bad = torch.zeros((), dtype=torch.bool, device=hardware.device)
        self.first_bad = torch.zeros(4, device=hardware.device)

    def zero_grad(self) -> None:
        """Forget the gradients of the last step."""
        self.adamw.zero_grad(set_to_none=True)

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
        self.scaler.unscale_(self.adamw)
        parameters = self.model.parameters()
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.grad_clip or math.inf)
        for group in self.groups:
            group["lr"] = rate * (group["initial_lr"] / self.learning_rate)
        self.scaler.step(self.adamw)
        self.scaler.update()
        # In float16 a gradient that overflows is normal: GradScaler skips it and lowers its scale.
        checked_norm = torch.zeros_like(norm) if self.scaler.is_enabled() else norm
        self._remember(step, rate, loss, checked_norm)
        return norm

    def _remember(self, step: int, rate: float, loss: Tensor, norm: Tensor) -> None:
        bad = ~(loss.isfinite() & norm.isfinite())
        rate = min(rate, torch.finfo(torch.float32).max)
        numbers = torch.stack([loss.new_full((), step), loss.new_full((), rate), loss, norm])
        self.first_bad = torch.where(bad & ~self.is_bad, numbers, self.first_bad)
        self.is_bad = self.is_bad | bad

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
        dtype = "" if self.hardware.dtype == torch.float32 else " or --dtype=float32"
        return (
            "resume from the last checkpoint, or start again with --overwrite=True, with a lower "
            f"learning_rate{dtype}"
        )

    def state_dict(self) -> dict:
        """What a checkpoint keeps: the states of AdamW and of the loss scale."""
        return {"optimizer": self.adamw.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, saved: dict) -> None:
        """Take over the states from a checkpoint, but keep this run's own settings."""
        self.adamw.load_state_dict(saved["optimizer"])
        self.groups = self.adamw.param_groups
        for group, decay in zip(self.groups, self.decays, strict=True):
            group |= self.options | {"weight_decay": decay}
        if saved["scaler"]:  # empty where the run was not in float16 before
            self.scaler.load_state_dict(saved["scaler"])
