"""Which option was meant by one that does not exist."""

import difflib
from collections.abc import Sequence

# What other libraries call an option → ours, the first that the command has.
ELSEWHERE: dict[str, tuple[str, ...]] = {
    "steps": ("num-steps", "max-steps", "n-steps", "train-steps", "total-steps", "num-updates", "max-iters",
              "num-iterations", "iterations", "total-timesteps", "timesteps"),
    "learning-rate": ("lr", "alpha"),
    "weight-decay": ("wd",),
    "warmup-steps": ("warmup", "num-warmup-steps"),
    "clip-norm": ("grad-clip", "grad-norm-clip", "clip-grad", "max-grad-norm", "gradient-clip-val"),
    "batch-size": ("batch", "bs", "train-batch-size", "minibatch-size"),
    "episodes": ("n-eval-episodes", "num-eval-episodes", "eval-episodes", "n-episodes", "num-episodes"),
    "targets": ("target", "target-return", "target-returns", "rtg", "target-rtg", "desired-return"),
    "evaluate-every": ("eval-freq", "eval-every", "eval-interval", "evaluation-interval", "eval-period"),
    "log-every": ("log-freq", "log-interval", "logging-steps"),
    "checkpoint-every": ("save-every", "save-freq", "save-interval", "save-steps"),
    "seeds": ("n-seeds", "num-seeds"),
    "seed": ("random-seed", "random-state"),
    "dataset": ("dataset-id", "dataset-name", "data", "minari-id"),
    "datasets": ("dataset", "dataset-id", "dataset-name", "data", "minari-id"),
    "agents": ("agent", "algo", "algos", "algorithm", "algorithms"),
    "env": ("env-name", "env-id", "environment", "gym-id", "task"),
    "run-dir": ("ckpt", "checkpoint", "ckpt-path", "checkpoint-path", "load", "resume", "save-dir", "log-dir", "logdir",
                "output-dir", "output", "out"),
    "out": ("output", "output-dir", "out-dir", "save-dir", "log-dir", "logdir", "run-dir"),
    "device": ("gpu", "cuda", "use-cuda", "use-gpu", "accelerator"),
    "precision": ("amp", "bf16", "fp16", "dtype", "mixed-precision"),
    "jobs": ("workers", "num-workers", "n-workers", "n-jobs", "n-envs", "num-envs"),
    "threads": ("num-threads", "n-threads"),
    "context": ("k", "context-length", "context-len", "seq-len", "sequence-length", "block-size", "max-length"),
    "width": ("hidden-size", "hidden-dim", "embed-dim", "embedding-dim", "d-model", "n-embd", "emb-dim", "n-units"),
    "layers": ("n-layer", "n-layers", "num-layers", "n-blocks", "num-blocks", "depth"),
    "heads": ("n-head", "n-heads", "num-heads", "nhead"),
    "video": ("render", "record", "gif", "record-video", "video-path"),
    "top-fraction": ("top", "percentile", "pct-traj", "bc-fraction"),
}  # fmt: skip


def nearest(word: str, options: Sequence[str]) -> str | None:
    """The option among `options` that was probably meant by `word`, all with their dashes; None where none is near."""
    typed = word.split("=")[0].lower().lstrip("-").replace("_", "-")
    for ours, theirs in ELSEWHERE.items():
        if typed in theirs and f"--{ours}" in options:
            return f"--{ours}"
    return next(iter(difflib.get_close_matches(word.split("=")[0], options, n=1)), None)
