"""The cost of private gradients: a step of book-keeping against ordinary training and against Opacus.

Every method trains the same part of the same network (random weights, frozen normalisation statistics) on the same
images, one a patient; steps of all methods are taken in turn. Of each the fastest is told, and a ratio is the median of
the ratios of neighbouring steps, which other work on the machine disturbs less. A step is a forward pass, a backward
pass, and clipping where there is any; noise and the optimiser cost the same everywhere and are left out. On a CUDA
device all but Opacus run under autocast.

Peak memory is what a step needs beyond the network and its inputs. On a CPU every method runs in a process of its own
for it, and the high-water mark of the resident set counts (Linux only); on CUDA it is the allocator's.

Opacus needs help to run these networks at all: they are traced and rewritten without operations in place, its norms get
a sampler for frozen statistics, and its tensors are not channels-last, which it would take wrongly without an error.

    python -m melfed.simulations.benchmarks.gradients [--threads 1 --threads 2] [--no-opacus] [--json]
"""

import gc
import json
import multiprocessing
import operator
import os
import platform
import re
import statistics
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from melfed.common.model.backbones.spec import Trainable

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from melfed.common.model.classifier import Classifier

MODELS: Final = ["mobilenet_v2", "squeezenet1_1", "resnet18", "efficientnet_b0", "densenet121"]
PARTS: Final = ["full", "affine", "head"]
METHODS: Final = ("ordinary", "book-keeping", "opacus hooks", "opacus ghost")
FULL: Final = "ordinary full"
"""Ordinary training of everything, whatever part the others train."""
CLIPPING_NORM: Final = 1.0

Step = Callable[[], None]


def network(backbone: str, part: Trainable, *, channels_last: bool) -> "Classifier":
    """Return a network as a study builds it from ImageNet weights, but with random ones, on the device used here."""
    import torch

    from melfed.common.model.classifier import Classifier, build_trunk, set_trainable
    from melfed.common.model.norms import FrozenStatisticsNorm, replace_batch_norms

    torch.manual_seed(0)
    trunk = build_trunk(backbone, pretrained=True)
    replace_batch_norms(trunk, FrozenStatisticsNorm)
    model = Classifier(backbone, trunk, metadata=False, dropout=0.0)
    set_trainable(model, part)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return model.to(device(), memory_format=layout).train()  # type: ignore[call-overload, no-any-return]


def device() -> "torch.device":
    """Return the CUDA device where there is one, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def make_step(method: str, backbone: str, size: int, part: Trainable, batch: int) -> Step:
    """Return a function that takes one step. Whatever a method needs before its first step is done here.

    Args:
        method: one of `METHODS`.
        backbone: a name of `melfed.common.model.backbones.BACKBONES`.
        size: side of the images in pixels.
        part: what learns.
        batch: number of images, each of a patient of its own.
    """
    import numpy as np
    import torch
    from torch.nn import functional as F

    from melfed.client.privacy.gradients import Clipping, PrivateGradients

    opacus = method.startswith("opacus")
    model = network(backbone, part, channels_last=not opacus)
    layout = torch.contiguous_format if opacus else torch.channels_last
    images = torch.randn(batch, 3, size, size).to(device(), memory_format=layout)
    targets = (torch.arange(batch) % 2).to(device(), torch.float32)
    if opacus:
        return _opacus_step(model, images, targets, ghost=method == "opacus ghost")

    def losses() -> "Tensor":
        with torch.autocast(device().type, enabled=device().type == "cuda"):
            logits = model(images)
        return F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")

    if method == "ordinary":

        def ordinary() -> None:
            model.zero_grad(set_to_none=True)
            losses().sum().backward()  # type: ignore[no-untyped-call]

        return ordinary
    private, patients = PrivateGradients(model, Clipping(CLIPPING_NORM)), np.arange(batch)

    def book_keeping() -> None:
        private.reset()
        private.add(losses, patients)

    return book_keeping


def _opacus_step(model: "Classifier", images: "Tensor", targets: "Tensor", *, ghost: bool) -> Step:
    import torch
    from opacus import GradSampleModule
    from opacus.grad_sample import GradSampleModuleFastGradientClipping, register_grad_sampler
    from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping

    from melfed.common.model.norms import FrozenStatisticsNorm

    def frozen_norm(layer: Any, inputs: "list[Tensor]", g: "Tensor") -> "dict[Any, Tensor]":
        if not layer.weight.requires_grad:
            return {}
        mean, variance = (value.view(1, -1, 1, 1) for value in (layer.running_mean, layer.running_var))
        normal = (inputs[0] - mean) * torch.rsqrt(variance + layer.eps)
        return {layer.weight: (g * normal).sum((2, 3)), layer.bias: g.sum((2, 3))}

    register_grad_sampler(FrozenStatisticsNorm)(frozen_norm)
    model.trunk = without_operations_in_place(model.trunk)
    loss = torch.nn.BCEWithLogitsLoss(reduction="sum")
    wrap, kind, more = GradSampleModule, DPOptimizer, {}
    if ghost:
        wrap, kind = GradSampleModuleFastGradientClipping, DPOptimizerFastGradientClipping
        more = {"max_grad_norm": CLIPPING_NORM, "use_ghost_clipping": True}
    hooked = wrap(model, loss_reduction="sum", strict=False, **more)
    optimizer = kind(
        torch.optim.SGD([value for value in hooked.parameters() if value.requires_grad], 1.0),
        noise_multiplier=0.0,
        max_grad_norm=CLIPPING_NORM,
        expected_batch_size=len(targets),
        loss_reduction="sum",
    )
    criterion = DPLossFastGradientClipping(hooked, optimizer, loss, "sum") if ghost else loss

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        criterion(hooked(images), targets).backward()
        optimizer.clip_and_accumulate() if not ghost else optimizer.accumulate()

    return step


def without_operations_in_place(trunk: "nn.Module") -> "nn.Module":
    """Return a trunk that computes the same without writing into its tensors, as Opacus's hooks demand."""
    from torch import fx

    from melfed.common.model.norms import FrozenStatisticsNorm

    class Tracer(fx.Tracer):
        def is_leaf_module(self, module: "nn.Module", name: str) -> bool:
            return isinstance(module, FrozenStatisticsNorm) or super().is_leaf_module(module, name)

    for layer in trunk.modules():
        if hasattr(layer, "inplace"):
            layer.inplace = False  # type: ignore[assignment]
    traced = fx.GraphModule(trunk, Tracer().trace(trunk))
    for node in traced.graph.nodes:
        if node.target in (operator.iadd, operator.imul):
            node.target = operator.add if node.target is operator.iadd else operator.mul
        if "inplace" in node.kwargs:
            node.kwargs = {**node.kwargs, "inplace": False}
    traced.recompile()
    return traced


def measure(
    backbone: str, size: int, part: Trainable, batch: int, repeats: int, *, opacus: bool = True
) -> dict[str, Any]:
    """Return one row: seconds and peak bytes by method (null where it cannot run), why not, and the ratios."""
    steps: dict[str, Step] = {}
    failures: dict[str, str] = {}
    for method in (*METHODS, *([] if part == "full" else [FULL])):
        if method.startswith("opacus") and not opacus:
            continue
        try:
            steps[method] = make_step(*_method_and_part(method, backbone, size, part, batch))
            steps[method]()
        except (RuntimeError, NotImplementedError, ValueError, TypeError, AttributeError) as error:
            if not method.startswith("opacus"):
                raise
            steps.pop(method, None)
            failures[method] = str(error).partition("\n")[0]
        gc.collect()
    times: dict[str, list[float]] = {method: [] for method in steps}
    for _ in range(repeats):
        for method, step in steps.items():
            times[method].append(_timed(step))
    steps.clear()
    memory = {method: peak_memory(*_method_and_part(method, backbone, size, part, batch)) for method in times}
    # Where everything learns, that is the ordinary step itself, and was timed once.
    times.setdefault(FULL, times["ordinary"])
    memory.setdefault(FULL, memory["ordinary"])
    ratios = {
        method: statistics.median(a / b for a, b in zip(times["book-keeping"], times[method], strict=True))
        for method in times
    }
    return {
        "model": backbone,
        "size": size,
        "part": part,
        "batch": batch,
        "threads": _threads(),
        "seconds": {method: min(found) for method, found in times.items()},
        "peak_bytes": memory,
        "cannot_run": failures,
        "time_over_ordinary": ratios["ordinary"],
        "time_over_ordinary_full": ratios[FULL],
        "time_over_fastest_opacus": max(
            (r for method, r in ratios.items() if method.startswith("opacus")), default=None
        ),
        "memory_over_ordinary": _ratio(memory["book-keeping"], memory["ordinary"]),
        "memory_over_ordinary_full": _ratio(memory["book-keeping"], memory[FULL]),
    }


def summed_up(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the geometric mean and the largest of full training's ratios to ordinary steps, by threads."""
    full = [row for row in rows if row["part"] == "full"]
    found = {}
    for threads in sorted({row["threads"] for row in full}):
        ratios = [row["time_over_ordinary"] for row in full if row["threads"] == threads]
        found[str(threads)] = {"mean": statistics.geometric_mean(ratios), "largest": max(ratios)}
    return found


def processor() -> str:
    """Return the name of the device that computes: of a CPU with family and model, as virtual machines tell no more."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine()
    keys = dict(re.findall(r"^(model name|cpu family|model)\s*: (.+)$", info.read_text(), re.MULTILINE))
    family = f"family {keys['cpu family']}, model {keys['model']}" if "model" in keys else ""
    return f"{keys.get('model name', platform.machine())} {family and f'({family})'}".strip()


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def peak_memory(method: str, backbone: str, size: int, part: Trainable, batch: int) -> int | None:
    """Return the bytes that two steps need at most beyond the network and its inputs; None where it is not known."""
    import torch

    if torch.cuda.is_available():
        return _cuda_peak(make_step(method, backbone, size, part, batch))
    if not Path("/proc/self/clear_refs").exists():
        return None
    # A fresh process: what earlier steps left in the allocator would hide what this one needs.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as processes:
        return processes.submit(_resident_peak, method, backbone, size, part, batch).result()


def _resident_peak(method: str, backbone: str, size: int, part: Trainable, batch: int) -> int:
    warnings.simplefilter("ignore")
    make_step(method, "simple_cnn", 32, "full", 2)()  # libraries load, and threads start
    step = make_step(method, backbone, size, part, batch)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again
    before = _kibibytes("VmRSS")
    step()
    step()
    return (_kibibytes("VmHWM") - before) * 1024


def _kibibytes(entry: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(entry))


def _cuda_peak(step: Step) -> int:
    import torch

    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    step()
    return torch.cuda.max_memory_allocated() - before


def _method_and_part(
    method: str, backbone: str, size: int, part: Trainable, batch: int
) -> tuple[str, str, int, Trainable, int]:
    if method == FULL:
        return "ordinary", backbone, size, "full", batch
    return method, backbone, size, part, batch


def _timed(step: Step) -> float:
    import torch

    synchronise: Callable[[], object] = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    synchronise()
    started = perf_counter()
    step()
    synchronise()
    return perf_counter() - started


def _ratio(part: int | None, whole: int | None) -> float | None:
    return None if part is None or not whole else part / whole


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows as text: network, size, part, threads; seconds of every method, and book-keeping's ratios."""
    lines = [
        f"{'':32}{'ordinary':>10}{'book':>10}{'hooks':>10}{'ghost':>10}   time over: same part, full   memory likewise"
    ]
    for row in rows:
        cells = [f"{row['seconds'][method] * 1e3:.0f} ms" if method in row["seconds"] else "-" for method in METHODS]
        ratios = [f"{row['time_over_' + kind]:.2f}" for kind in ("ordinary", "ordinary_full")]
        memory = [row["memory_over_" + kind] for kind in ("ordinary", "ordinary_full")]
        name = f"{row['model']} {row['size']} px {row['part']} {row['threads']}"
        shown = [f"{value:.2f}" if value is not None else "-" for value in memory]
        lines.append(
            f"{name:32}" + "".join(f"{cell:>10}" for cell in cells) + f"{' '.join(ratios):>29}{' '.join(shown):>18}"
        )
        lines += [f"    {method} cannot run: {reason}" for method, reason in row["cannot_run"].items()]
    return "\n".join(lines)


def main(
    models: Annotated[list[str] | None, typer.Option(help="Networks; repeat the option for several.")] = None,
    sizes: Annotated[list[int] | None, typer.Option(min=32, help="Sides of the images in pixels.")] = None,
    parts: Annotated[list[str] | None, typer.Option(help="What learns: full, affine, last_block, head.")] = None,
    threads: Annotated[list[int] | None, typer.Option(min=1, help="Of torch; repeat the option for several.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images a step; 16, or 256 on CUDA.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Steps of each method, taken in turn.")] = 5,
    opacus: Annotated[bool, typer.Option(help="Against Opacus too.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure the cost of private gradients."""
    import torch

    warnings.simplefilter("ignore")
    images = batch or (256 if torch.cuda.is_available() else 16)
    started = perf_counter()
    rows = []
    for count in threads or [_threads()]:
        torch.set_num_threads(count)
        for backbone in models or MODELS:
            for size in sizes or [128, 224]:
                for part in parts or PARTS:
                    rows.append(measure(backbone, size, part, images, repeats, opacus=opacus))  # type: ignore[arg-type]
                    sys.stderr.write(table(rows[-1:]).partition("\n")[2] + "\n")
    if as_json:
        about = {"device": str(device()), "processor": processor(), "cores": os.cpu_count(), "repeats": repeats}
        sys.stdout.write(json.dumps({**about, "full": summed_up(rows), "rows": rows}, indent=2) + "\n")
        return
    print(table(rows))
    for threads_used, found in summed_up(rows).items():
        means = f"geometric mean {found['mean']:.2f} (to reach: 1.15), largest {found['largest']:.2f} (1.25)"
        print(f"full, {threads_used} threads: {means}")
    print("to reach on a CPU: full at most 1.30 of ordinary in memory; affine at most 1.00 of ordinary full in time")
    print(f"measured in {perf_counter() - started:.0f} s, {images} images a step, {processor()}")


if __name__ == "__main__":
    typer.run(main)
