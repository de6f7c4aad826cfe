"""Made-up finished runs: every number of a report can be worked out by hand from them."""

import base64

from flowrl.report import Run, label_of
from flowrl.training.run_folder import RunFolder

TARGETS, EPISODE_SEEDS, SEEDS = [2.0, 10.0], [100, 101, 102, 103], [0, 1]
AGENTS = ("flow", "dt", "bc")
GIF = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")


def return_of(agent, seed, target, episode):
    """flow is 1 ahead of dt at the low target and 3 behind at the high one, in every episode; bc is all over."""
    shared = target + 10 * seed + 5 * (episode % 2)
    return {"dt": shared, "flow": shared + (1 if target == 2 else -3), "bc": shared + (-1) ** episode * 50}[agent]


def make_run(folder, agent, seed, *, dataset="test/made-up-v0", score=True, spread=1.0):
    run = RunFolder(folder)
    folder.mkdir(parents=True)
    run.begin(
        {
            "agent": agent,
            "agent_config": {"width": 16},
            "training": {"steps": 40, "learning_rate": 1e-3},
            "evaluate_episodes": 2,
            "evaluation": {"targets": TARGETS[::-1], "episodes": 4, "episode_seed": 100, "vector": "sync"},
            "seed": seed,
            "dataset": dataset,
            "fingerprint": "f",
            "dataset_returns": {
                "percentiles": [10 - spread * (100 - p) / 10 for p in range(101)], "mean": 5.0, "mean_by_step": 6.5,
                "episodes": 1234, "steps": 45678,
            },
            "env_spec": '{"kwargs": {"length": 1}}',
            "device": "cpu",
            "versions": {"torch": "9.9"},
        }
    )  # fmt: skip
    run.append("metrics.jsonl", [{"step": s, "train/loss": 1.0, "steps_per_second": 5.0 + 5 * seed} for s in (20, 40)])
    run.append("metrics.jsonl", [{"step": 40, "eval/seconds": 3.0 + seed, "memory/peak_bytes": 2**30}])

    acting = {"rollout": "memoryless"} if agent == "bc" else {"rollout": "window", "acting_context": 5}

    def row(kind, step, target, episode, value):
        return {
            "kind": kind, "step": step, "env": "test/Env-v0", "target": target, "seed": episode, "return": value,
            "length": 8, "terminated": True, "score_d4rl": None, "score_measured": 2 * value if score else None,
            **acting,
            "device": "cpu", "versions": {"torch": "9.9"},
        }  # fmt: skip

    # Rows of evaluations while training, and of scripts.evaluate, are not the result.
    run.append("evaluations.jsonl", [row("training", 20, t, e, 1000.0) for t in TARGETS for e in EPISODE_SEEDS[:2]])
    final = [
        row("final", 40, t, e, return_of(agent, seed, t, e)) for t in TARGETS[::-1] for e in EPISODE_SEEDS[::-1]
    ]  # fmt: skip
    run.append("evaluations.jsonl", final)
    run.append("evaluations.jsonl", [row("evaluate", 40, t, 7, -5000.0) for t in TARGETS])
    (folder / "episode.gif").write_bytes(GIF)
    return run


def made_up_study(*, change=0.5, flows=True, before=0, layers=2, heads=3, tokens=6, steps=5):
    """As a study is stored: two layers of three heads over windows of two steps."""

    def series(scale):
        return [
            [[scale * (1 + layer + head + i) for i in range(steps)] for head in range(heads)] for layer in range(layers)
        ]

    row = [[1.0 / (i + 1) if j <= i else 0.0 for j in range(tokens)] for i in range(tokens)]
    names = [f"{kind} {step}" for step in (7, 8) for kind in ("return", "observation", "action")]
    return {
        "best": 10.0, "worst": 0.0, "rollout": "window",
        "episodes": [{"target": t, "seed": 100, "return": t + 2, "length": 8} for t in TARGETS],
        "sensitivity": {
            "looks_at_return": True, "unit": "half the action range", "targets": TARGETS,
            "change": [(10 - t) / 16 for t in TARGETS], "worst_to_best": change,
        },
        "maps": {
            "attention": "flow" if flows else "softmax", "steps": list(range(steps)), "tokens": [tokens] * steps,
            "attended": series(0.25), "gain": series(0.1),
            "flows": {name: series(scale) for name, scale in (("incoming", 1), ("competition", 2), ("allocation", 3))}
            if flows else None,
            "share": {"return": series(0.01), "observation": series(0.02), "action": series(0.03)},
            "picture": {
                "step": 8, "tokens": names, "tokens_before": before, "weights": [[row] * heads] * layers,
                "gain": [[[2.0] * tokens] * heads] * layers,
            },
        },
        "clip": {"file": "episode.gif", "frames": 1, "steps": 8, "seconds": 0.1},
    }  # fmt: skip


def load(*folders, studies=None):
    """Finished runs by their folders' names; `studies` by label."""
    labels = [label_of(folder.path) for folder in folders]
    return [
        Run.load(folder, label, study=(studies or {}).get(label)) for folder, label in zip(folders, labels, strict=True)
    ]
