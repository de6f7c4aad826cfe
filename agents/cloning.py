"""Cloning: an actor learns to repeat the actions of the data, from windows, whole episodes or carried chunks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flowrl.agents.carried import begun_anew, of_all_processes, of_this_process
from flowrl.agents.compiling import compiled
from flowrl.attention import CausalAttention
from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.samplers import Batch, Chunk, Chunks, Context, Episodes, Part, Windows
from flowrl.nn.state import map_state
from flowrl.protocols import Sampler
from flowrl.training import distributed
from flowrl.training.config import TrainingConfig


@dataclass(frozen=True)
class CloningConfig:
    """How the cloning error is minimised: by AdamW with a linear warm-up."""

    learning_rate: float = 1e-3
    """AdamW's learning rate after warm-up."""
    weight_decay: float = 1e-4
    """AdamW's weight decay."""
    warmup_steps: int = 500
    """Steps over which the learning rate rises linearly from 0."""
    schedule: Literal["constant", "linear"] = "linear"
    """The learning rate after warm-up: constant, or falling linearly to 0 at the last step."""
    clip_norm: float = 0.25
    """Largest norm of the gradient."""
    windows: Literal["uniform", "full"] = "uniform"
    """uniform: a window begins at any step, and its part beyond the episode's end is padding; full: such a window
    begins earlier instead, so that it is full or holds its whole episode."""
    compile: bool = False
    """Compile the loss with torch.compile."""

    def __post_init__(self) -> None:
        for name in ("weight_decay", "warmup_steps"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 0")
        for name in ("learning_rate", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be above 0")
        for name, known in (("schedule", ("constant", "linear")), ("windows", ("uniform", "full"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}: known are {', '.join(known)}")

    def check(self, context: Context, *, carries: bool) -> None:
        """Raise ValueError where a setting needs windows of one length and the agent is not trained on windows.

        Args:
            context: steps of a window or chunk, or whole episodes.
            carries: whether chunks follow each other.
        """
        if context != "episode" and not carries:
            return
        what = "a carried state" if carries else "whole episodes"
        if self.windows == "full":
            raise ValueError(f"windows is 'full' with {what}: it must be 'uniform', since no window is cut short")
        if self.compile:
            raise ValueError(f"compile is True with {what}: batches of many lengths would each be compiled anew")

    def cautions(self, steps: int) -> list[str]:
        """A sentence where warm-up takes more than a tenth of `steps` training steps."""
        if 10 * self.warmup_steps <= steps:
            return []
        part = min(self.warmup_steps / steps, 1)
        return [
            f"warmup_steps is {self.warmup_steps:,} and steps is {steps:,}: the learning rate rises for"
            f" {100 * part:.0f} % of the training"
        ]

    def rate(self, step: int, steps: int) -> float:
        """The factor on the learning rate of the step after `step` of `steps` steps, in (0, 1]."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        left = (steps - step) / max(1, steps - self.warmup_steps)
        return warm if self.schedule == "constant" else min(warm, left)


class CloningLearner:
    """Trains an actor by the mean cloning error over real steps.

    Args:
        actor: an `Actor` with a `head` and ``predict(batch)``, and with `initial_state` and `resume` if it carries a
            state.
        context: K, steps in a window or in the mean of a chunk, or whole episodes.
        carries: train on chunks that follow each other, each with the state that the one before left.
    """

    def __init__(
        self,
        actor: Any,
        config: CloningConfig,
        training: TrainingConfig,
        device: torch.device,
        *,
        context: Context,
        carries: bool = False,
    ) -> None:
        self.actor = actor.to(device)
        self.config, self.carries = config, carries
        self.context: Context = context
        self.device, self.bf16 = device, training.precision == "bf16"
        self.parameters = list(actor.parameters())
        self.optimiser = torch.optim.AdamW(
            self.parameters, config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda step: config.rate(step, training.steps)
        )
        self.state: Any = None  # that the last chunk left
        self._attentions = [module for module in actor.modules() if isinstance(module, CausalAttention)]
        self._loss: Callable[[Any], Tensor] = self.carried_loss if carries else self.loss
        if config.compile:
            self._loss = compiled(self._loss)

    def sampler(self, dataset: TrajectoryDataset, batch_size: int, part: Part) -> Sampler:
        """See `flowrl.protocols.Learner`."""
        if self.context == "episode":
            return Episodes(dataset, batch_size, part=part)
        if self.carries:
            self.state = self.actor.initial_state(batch_size // part.ranks)
            return Chunks(dataset, batch_size, self.context, part=part)
        return Windows(dataset, batch_size, self.context, full=self.config.windows == "full", part=part)

    def loss(self, batch: Batch) -> Tensor:
        """The mean error over real steps, see `ActionHead.error`."""
        return batch.mean(self.actor.head.error(self.actor.predict(batch), batch.actions))

    def carried_loss(self, chunk: Chunk) -> Tensor:
        """As `loss` for chunks that go on from the state; the state goes on, without gradient."""
        batch, begins = chunk
        predicted, state = self.actor.resume(batch, begun_anew(self.state, begins))
        self.state = map_state(Tensor.detach, state)
        return batch.mean(self.actor.head.error(predicted, batch.actions))

    def update(self, batch: Batch | Chunk, step: int) -> dict[str, Tensor]:
        """One step of AdamW; see `flowrl.protocols.Learner`."""
        for attention in self._attentions:
            attention.prepare_step(step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            loss = self._loss(batch)
            loss = distributed.part_of_mean(loss, (~batch.is_pad).sum())
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        distributed.average_gradients(self.parameters)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
        rate = torch.tensor(self.schedule.get_last_lr()[0])
        self.optimiser.step()
        self.schedule.step()
        return {"loss": loss.detach(), "gradient_norm": norm.detach(), "learning_rate": rate}

    def state_dict(self) -> dict[str, Any]:
        """See `flowrl.protocols.Learner`; the carried state is that of all processes, row by row."""
        state = {
            "actor": self.actor.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
        }
        if self.carries:
            state["carried"] = of_all_processes(self.state)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `flowrl.protocols.Learner`."""
        self.actor.load_state_dict(state["actor"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        if self.state is not None:
            self.state = of_this_process(self.state, state["carried"])
