"""What the training loop and the rollout ask of an agent: a loss, and a way to act."""

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from flowrl.data.samplers import Batch, Context


class Agent(Protocol):
    """An `nn.Module` that learns from windows and acts in many episodes at once, one slot an episode."""

    context: Context  # steps in the windows that `loss` takes, or whole episodes

    def loss(self, batch: Batch) -> Tensor:
        """The scalar to minimise: a mean over real steps, each with the same weight."""
        ...

    def initial(self, targets: Tensor) -> Any:
        """The carry of episodes that have not begun; `targets` (slots,) are the returns asked for, in raw units."""
        ...

    def act(self, carry: Any, observations: Tensor, rewards: Tensor) -> tuple[Any, Tensor]:
        """Act once in every slot.

        Args:
            carry: from `initial` or the last `act`.
            observations: (slots, observation size) raw.
            rewards: (slots,) of the last step; zeros at the first.

        Returns:
            The next carry, and (slots, action size) actions within their bounds; one-hot rows of discrete ones.
        """
        ...

    def select(self, carry: Any, slots: Tensor) -> Any:
        """The carry of the episodes at `slots` (int64) alone; the others are over."""
        ...


@runtime_checkable
class CarryingAgent(Agent, Protocol):
    """An agent that can also learn from chunks that follow each other, carrying a state from one to the next."""

    carries: bool  # whether it is to be trained so, on chunks of `context` steps in the mean

    def initial_state(self, batch: int) -> Any:
        """What `carried_loss` takes before the first chunk of `batch` episodes."""
        ...

    def carried_loss(self, batch: Batch, begins: Tensor, state: Any) -> tuple[Tensor, Any]:
        """As `loss` for chunks that follow those which left `state`, and the state that they leave, without gradient.

        Args:
            begins: (B,) bool, True at chunks that begin anew; what `state` holds of their rows means nothing.
            state: tensors, in lists and tuples, whose first axis is the batch.
        """
        ...
