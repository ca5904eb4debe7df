"""What a plan says in words: what was measured, what is assumed, and the whole in a few lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gendistill.config import Config
from gendistill.cost.estimate import Estimate
from gendistill.cost.model import Cluster, Costs
from gendistill.cost.sample import BatchSpeed, CallSpeed, Sample
from gendistill.cost.writing import calls_at_once

STAGE_NAMES = {
    "start": "reading data, loading models",
    "teacher": "teacher and real rows",
    "write": "writing",
    "score": "scoring",
    "choose": "choosing",
    "measure": "measuring students",
    "audit": "audit and report",
}


def count_text(value: float) -> str:
    """``380``, ``12,530``, ``6.53 M``, ``33 G``: three digits that count."""
    for unit, name in ((1e12, " T"), (1e9, " G"), (1e6, " M")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def bytes_text(value: float) -> str:
    for unit, name in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return f"{value:.0f} B"


def time_text(seconds: float) -> str:
    for unit, name in ((86400.0 * 365, "years"), (86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:,.3g} {name}"
    return f"{seconds:.3g} s"


def money_text(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def estimate_text(figure: Estimate, text: Callable[[float], str]) -> str:
    """``12,530 \u00b1 12%``: half the width of the 95 % interval as a share of the figure."""
    if not figure.error or not figure.value:
        return text(figure.value)
    return f"{text(figure.value)} \u00b1 {(figure.high - figure.value) / figure.value:.0%}"


def measured_lines(sample: Sample, config: Config) -> list[str]:
    """What the sample found on this machine."""
    written, kept, student = sample.written, sample.kept, config.student
    lines = [f"measured on this machine ({sample.device}) in {time_text(sample.took_s)}:"]
    if written.speed is not None:
        lines += [
            f"  {sample.generator}: {written.requests} replies of {written.completion_tokens.value:.1f} tokens, "
            f"prompts of {written.prompt_tokens.value:.0f}",
            f"  {count_text(tokens_a_second(sample, config))} tokens/s {_at(written.speed, config)}",
            f"  {kept.value:.0%} of them passed all filters ({kept.low:.0%} to {min(1.0, kept.high):.0%}), by a "
            "teacher that had only begun to learn",
        ]
    lines.append(
        f"  {student.model}: {1 / sample.look_row_s:.0f} candidates/s at {student.checkpoints} checkpoints, "
        f"{sample.step_s:.2g} s for a step of training"
    )
    sizes = " and ".join(f"{size:,} in {time_text(seconds)}" for size, seconds in sample.choices)
    lines.append(f"  the choice among synthetic candidates: {sizes}")
    return lines


def tokens_a_second(sample: Sample, config: Config) -> float:
    """Of one generator with as much to do at once as a run gives it."""
    written, speed = sample.written, sample.written.speed
    if isinstance(speed, CallSpeed):
        replies = speed.calls_a_second(calls_at_once(config.generator)) * speed.requests
        return replies * written.completion_tokens.value
    assert isinstance(speed, BatchSpeed)  # the one other kind
    rows = config.generator.batch_size
    tokens = rows * written.completion_tokens.value
    prompts = rows / config.generator.samples_per_prompt * written.prompt_tokens.value
    return tokens / speed.seconds(written.longest(rows), tokens, prompts)


def _at(speed: BatchSpeed | CallSpeed, config: Config) -> str:
    if isinstance(speed, CallSpeed):
        return f"at {calls_at_once(config.generator)} calls at once, extrapolated from {speed.at_once}"
    return f"in batches of {config.generator.batch_size}"


def assumed_lines(sample: Sample, config: Config, cluster: Cluster, costs: Sequence[Costs]) -> list[str]:
    """What the figures rest on beside the sample."""
    lines = list(sample.assumed)
    if config.engine.kind == "ray":
        devices = f"{cluster.gpus} GPUs" if cluster.gpus else "no GPU"
        lines.append(
            f"a cluster with {devices}: {cluster.writers} generators and {cluster.scorers} students at once, each "
            + (
                f"{cluster.speedup:g} times as fast as here"
                if cluster.speedup != 1
                else "as fast as here (--speedup says otherwise)"
            )
        )
    elif cluster.speedup != 1:
        lines.append(f"a machine {cluster.speedup:g} times as fast as this one")
    lines.append(
        "later rounds are as the first: as long prompts and replies, as many kept; near copies, of which a large pool "
        "has more, are as many as in the sample"
    )
    if isinstance(sample.written.speed, CallSpeed):
        lines.append("the servers' speed with more calls than the sample made is the least certain figure")
    if config.generator.tune.steps:
        lines.append("tuning the generator is not counted")
    if cluster.gpus:
        lines.append(
            "GPU-hours are those of all GPUs while texts are written and scored, and of one while students learn"
        )
    lines += dict.fromkeys(note for one in costs for note in one.notes)
    return lines


def short_lines(costs: Costs) -> list[str]:
    """The whole in a few lines."""
    money = [f", {money_text(costs.money.value)} to pay"] if costs.money is not None else []
    gpus = [f", {count_text(costs.gpu_hours.value)} GPU-hours"] if costs.gpu_hours.value else []
    stages = sorted(costs.stages.items(), key=lambda item: -item[1].value)[:3]
    return [
        f"plan: {count_text(costs.requests.value)} requests, {count_text(costs.tokens_in.value)} tokens in and "
        f"{count_text(costs.tokens_out.value)} out{''.join(money + gpus)}",
        f"      {_range(costs.wall, time_text)}, most of it "
        + ", ".join(f"{STAGE_NAMES[name]} {time_text(part.value)}" for name, part in stages),
        f"      {_range(costs.bytes, bytes_text)} of storage, {bytes_text(costs.memory.value)} of memory; about "
        f"{count_text(costs.kept.value)} candidates kept",
    ]


def _range(figure: Estimate, text: Callable[[float], str]) -> str:
    return f"{text(figure.value)} ({text(figure.low)} to {text(figure.high)})"
