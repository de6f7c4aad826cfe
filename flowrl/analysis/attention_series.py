"""What a trajectory model attends to over an episode, as numbers by layer, head and step."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from flowrl.analysis.attention_maps import attention_maps, summarise
from flowrl.analysis.json_numbers import rounded
from flowrl.analysis.steps import portions, spread
from flowrl.nn.trajectory_actor import Recording, TrajectoryActor

MOST_STEPS = 200
PICTURE_STEPS = 20
FLOWS = ("incoming", "competition", "allocation")


@torch.inference_mode()
def attention_series(actor: TrajectoryActor, recording: Recording) -> dict[str, Any]:
    """The field ``maps`` of a study, see `flowrl.analysis.studies`.

    Args:
        actor: in evaluation mode.
    """
    steps = spread(len(recording.returns_to_go), MOST_STEPS)
    parts = [_series(actor, recording, some) for some in portions(actor, recording, steps)]
    series = {name: torch.cat([part[name] for part in parts], -1) for name in parts[0]}
    tokens = series.pop("tokens").tolist()
    values = {name: rounded(of_name, ".5g") for name, of_name in series.items()}
    return {
        "attention": actor.model.config.attention,
        "steps": steps.tolist(),
        "tokens": tokens,
        "attended": values["attended"],
        "share": {kind: values[kind] for kind in actor.model.kinds},
        "gain": values["gain"],
        "flows": {name: values[name] for name in FLOWS} if FLOWS[0] in values else None,
        "picture": _picture(actor, recording),
    }


def _series(actor: TrajectoryActor, recording: Recording, steps: Tensor) -> dict[str, Tensor]:
    """Values by name, (layers, heads, steps) each; `tokens`, (steps,), is how many are read."""
    seen = actor.seen(recording, steps)
    kinds = actor.model.kinds
    token = seen.position * len(kinds) + actor.model.acting_token
    at, row = token.unique(return_inverse=True)
    columns: dict[str, list[Tensor]] = defaultdict(list)
    for layer in attention_maps(actor.model, *seen[:4], at):
        summary = summarise(layer.weights[seen.window, :, row], len(kinds))
        columns["attended"].append(summary.attended)
        columns["gain"].append(summary.gain)
        for kind, share in zip(kinds, summary.share.unbind(-1), strict=True):
            columns[kind].append(share)
        for name in FLOWS if layer.flows else ():
            columns[name].append(getattr(layer.flows, name)[seen.window, :, token])
    series = {name: torch.stack(layers).transpose(1, 2) for name, layers in columns.items()}
    return series | {"tokens": token + 1}


def _picture(actor: TrajectoryActor, recording: Recording) -> dict[str, Any]:
    length = len(recording.returns_to_go)
    step = min(length - 1, max((actor.acting.context or 1) - 1, length // 2))
    seen = actor.seen(recording, torch.tensor([step], device=recording.actions.device))
    position = int(seen.position)
    kinds = actor.model.kinds
    first = max(0, position + 1 - PICTURE_STEPS)
    shown = slice(len(kinds) * first, len(kinds) * position + actor.model.acting_token + 1)
    maps = attention_maps(actor.model, *seen[:4], shown)
    return {
        "step": step,
        "tokens": [f"{kind} {t}" for t in seen.timesteps[0].tolist() for kind in kinds][shown],
        "tokens_before": shown.start,
        "weights": [rounded(layer.weights[0, :, :, shown], ".5f") for layer in maps],
        "gain": [rounded(layer.weights[0].sum(-1), ".5g") for layer in maps],
    }
