"""Whole training steps: against a textbook's, in long windows, and the share that sampling takes."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from flowrl.agents import SequenceConfig
from flowrl.data.dataset import TrajectoryDataset
from flowrl.data.samplers import sample_windows
from flowrl.scripts.benchmarks import synthetic
from flowrl.scripts.benchmarks.baselines import textbook_step, windows
from flowrl.scripts.benchmarks.measure import Contender, Row, alternate, faster
from flowrl.scripts.benchmarks.setting import AgentName, Setting
from flowrl.training.loop import Batches, TrainingConfig, isolated_rng

EPISODES = 100  # more would only lengthen the preparation, except where rows are gathered from memory


TARGETS: dict[AgentName, float | None] = {"flow": 1.3, "dt": None}  # of a token's time in long windows


def step(setting: Setting) -> Iterator[Row]:
    """One head; all of a step, from sampling to the learning rate's schedule."""
    sizes, data = setting.sizes, synthetic.dataset(EPISODES)
    training = TrainingConfig(batch_size=sizes.batch)
    contenders = []
    for precision in setting.precisions:
        for name in TARGETS:
            run = flowrl_step(setting, setting.config(name, heads=1), data, training, precision)
            contenders.append(Contender(f"{name} {precision}", run))
        with isolated_rng(0, setting.device):
            run = textbook_step(data, setting.config("dt", heads=1), training, setting.device, bf16=precision == "bf16")
        contenders.append(Contender(f"textbook {precision}", run))
    samples = {sample.name: sample for sample in alternate(contenders, setting.repetitions, setting.device)}
    what = f"K {sizes.context}, batch {sizes.batch}, width {sizes.width}, {sizes.layers} layers, H 1"
    yield Row(what, samples["flow fp32"], samples["dt fp32"], bound=1.10)
    yield faster(what, samples["dt fp32"], samples["textbook fp32"], 1.5)
    if "bf16" in setting.precisions:
        yield Row(what, samples["flow bf16"], samples["dt bf16"], bound=1.0)
        yield faster(what, samples["dt bf16"], samples["textbook fp32"], 2.5)
        yield faster(what, samples["dt bf16"], samples["textbook bf16"])


def context(setting: Setting) -> Iterator[Row]:
    """Time per token of whole steps, float32, in long windows and in short ones, of about as many tokens."""
    sizes, data = setting.sizes, synthetic.dataset(EPISODES)
    batches = {sizes.long_context: 1, sizes.context: max(1, sizes.long_context // sizes.context)}
    for heads in sizes.heads:
        for name, bound in TARGETS.items():
            contenders = []
            for steps, batch in batches.items():
                config = setting.config(name, heads=heads, context=steps)
                training = TrainingConfig(batch_size=batch, windows="full")
                run = flowrl_step(setting, config, data, training, "fp32")
                contenders.append(Contender(f"{name} K {steps:,}", run, units=3 * steps * batch))
            long, short = alternate(contenders, setting.few if name == "dt" else setting.repetitions, setting.device)
            yield Row(f"a token of {3 * sizes.long_context:,}, H {heads}", long, short, bound=bound)


def memory_training(setting: Setting) -> Iterator[Row]:
    """Steps that train a memory as long as an episode against steps on windows, by the token, in the fastest precision.

    Whole episodes have 1,000 steps here; chunks are as long as windows in the mean. The options are decay, output norm
    and convolution.
    """
    sizes, data, precision = setting.sizes, synthetic.dataset(EPISODES), setting.precisions[-1]
    heads = sizes.heads[-1]
    windows = setting.config("flow", heads=heads)
    carried = replace(windows, carry_state=True, rollout="recurrent")
    whole = replace(windows, context="episode", rollout="recurrent")
    options = {"convolution": 4, "attention_options": ("decay", "output_norm")}
    contenders = []
    for name, config, batch, steps in (
        ("windows", windows, sizes.batch, sizes.context),
        ("chunks", carried, sizes.batch, sizes.context),
        ("whole episodes", whole, 1, synthetic.LENGTH),
        ("windows, options", replace(windows, **options), sizes.batch, sizes.context),
        ("chunks, options", replace(carried, **options), sizes.batch, sizes.context),
        ("whole episodes, options", replace(whole, **options), 1, synthetic.LENGTH),
    ):
        run = flowrl_step(setting, config, data, TrainingConfig(batch_size=batch), precision)
        contenders.append(Contender(f"flow, {name}", run, units=3 * steps * batch))
    on_windows, *others = alternate(contenders, setting.repetitions, setting.device)
    for sample in others:
        yield Row(f"a token, K {sizes.context}, batch {sizes.batch}, H {heads}, {precision}", sample, on_windows)


def sampling(setting: Setting) -> Iterator[Row]:
    """A batch of windows against the fastest training step, and against a DataLoader's batch."""
    sizes = setting.sizes
    data = synthetic.dataset(sizes.stored_episodes)
    on_device, generator = data.to(setting.device), torch.Generator().manual_seed(0)
    precision = setting.precisions[-1]
    training = TrainingConfig(batch_size=sizes.batch)
    loader = windows(data, sizes.context, sizes.batch)
    sample, loaded, *steps = alternate(
        [
            Contender("a batch", partial(sample_windows, on_device, sizes.batch, sizes.context, generator)),
            Contender("DataLoader", partial(next, loader)),
            *(
                Contender(
                    f"{name} step {precision}",
                    flowrl_step(setting, setting.config(name, heads=1), on_device, training, precision),
                )
                for name in TARGETS
            ),
        ],
        setting.repetitions,
        setting.device,
    )
    what = f"{sizes.batch} windows of {sizes.context} steps out of {data.steps:,}"
    for whole in steps:
        yield Row(what, sample, whole, bound=0.02, words=" of a step")
    yield faster(what, sample, loaded)


def flowrl_step(
    setting: Setting, config: SequenceConfig, dataset: TrajectoryDataset, training: TrainingConfig, precision: str
) -> Callable[[], None]:
    """One training step by the calls of `flowrl.training.loop.train`; each call is the next step."""
    device = setting.device
    dataset, agent = dataset.to(device), setting.agent(config).train()
    parameters = list(agent.parameters())
    optimiser = torch.optim.AdamW(parameters, training.learning_rate, weight_decay=training.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: training.rate(step))
    generator = torch.Generator().manual_seed(0)
    loss_sum = torch.zeros((), device=device)
    batches = Batches(agent, dataset, training)

    def step() -> None:
        nonlocal loss_sum
        batch = batches.next(generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = batches.carry(batches.loss_of(*batch))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, training.clip_norm)
        optimiser.step()
        schedule.step()
        loss_sum = loss_sum + loss.detach()

    return step
