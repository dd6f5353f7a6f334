"""Clipped gradient sums of patients, at close to the price of ordinary gradients, on models as libraries make them.

One forward pass keeps the input of every layer that learns; one backward pass, along the data path only, brings the
gradient at its output, from which `melfed.client.privacy.layer_rules` gets every patient's norm and then the clipped
sum (book-keeping: Bu et al., arXiv 2210.00038). The parameters' `requires_grad` is off meanwhile, so autograd forms no
weight gradient of the batch, and the backward pass ends at the first layer that learns. What floating point can do to
norms and sums, and why a patient's share is at most C nevertheless: `melfed.client.privacy.shares`.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from melfed.client.privacy.layer_rules import FrozenNormRule, Rule, rule_for
from melfed.client.privacy.shares import CANCELLATION, Joined, Rows, Share, Sum
from melfed.common.errors import StudyError

NORMALISED_SLACK: Final = 0.01
"""What AUTO-S adds to a norm, so that tiny gradients are not blown up (its γ; Bu et al., arXiv 2206.07136)."""

SMALLEST_FACTOR: Final = torch.finfo(torch.float32).tiny
"""A factor below float32's normal numbers would be rounded by more than 2⁻²⁴; its patient is left out."""

IntArray = npt.NDArray[np.integer[Any]]
FloatArray = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Clipping:
    """How a patient's gradient is bounded. Either way it is at most `norm` long afterwards.

    Fixed clipping multiplies it by min(1, norm / length) (Abadi et al., arXiv 1607.00133, algorithm 1); normalised
    clipping by norm / (length + 0.01) (AUTO-S; Bu et al., arXiv 2206.07136).
    """

    norm: float
    normalised: bool = False

    def factors(self, norms: Tensor) -> Tensor:
        """Return what gradients of these norms are multiplied by; both of shape (patients,)."""
        if self.normalised:
            return self.norm / (norms + NORMALISED_SLACK)
        return (self.norm / norms).clamp(max=1)


class PrivateGradients:
    """The clipped gradient sums of a model's learning parameters; a context manager that ends with `close`."""

    def __init__(self, model: nn.Module, clipping: Clipping) -> None:
        """Check a model and put hooks on the layers that learn. It works as before outside `add`.

        Args:
            model: on the device where it will be trained, with `requires_grad` as it will be trained.
            clipping: how every patient's gradient is bounded.

        Raises:
            StudyError: nothing learns, parameters are tied, a layer that learns is not known here, or a BatchNorm would
                mix patients.
        """
        self.model = model
        self.clipping = clipping
        self._parameters = _learning_parameters(model)
        self._sums = {
            name: torch.zeros_like(value, dtype=torch.float64, requires_grad=False)
            for name, value in self._parameters.items()
        }
        self._fresh: set[str] = set()
        """Parameters to whose sums nothing was added since `reset`: they hold what was there before."""
        self._pass: _Pass | None = None
        self._uses_checked = False
        layers = {
            name: layer
            for name, layer in model.named_modules()
            if any(value.requires_grad for value in layer.parameters(recurse=False))
        }
        rules = {name: rule_for(name, layer) for name, layer in layers.items()}
        self._hooks = {
            # Before all other hooks: it must see the layer's own output.
            name: layer.register_forward_hook(
                partial(self._after_forward, name, rules[name]), prepend=True, with_kwargs=True
            )
            for name, layer in layers.items()
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Take the hooks off the model."""
        for hook in self._hooks.values():
            hook.remove()
        self._hooks.clear()

    @property
    def sums(self) -> dict[str, Tensor]:
        """Sums by the parameter's name, in its shape and on its device, float64, and finite whatever the losses are.

        Zero at the start and after `reset`. A parameter that no loss depends on keeps its zeros.
        """
        for name in self._fresh & self._sums.keys():
            self._sums[name].zero_()
        self._fresh.clear()
        return self._sums

    def reset(self) -> None:
        """Set all sums to zero: what is added first is written over what is there, so that memory is passed once."""
        self._fresh = set(self._sums)

    def add(
        self, losses_of: Callable[[], Tensor], patients: Tensor | IntArray, weights: Tensor | FloatArray | None = None
    ) -> Tensor:
        """Add the clipped gradients of some patients to `sums`.

        A patient's gradient is the weighted sum of the gradients of its images' losses. All its images must be in the
        same call. Fastest where the images of a patient lie together, and patients of equally many images too.

        Args:
            losses_of: called once; runs the model once and returns every image's loss, float (n,), each a function of
                that image alone. May use autocast.
            patients: of every image, integers, (n,). Those below 0 are padding (`melfed.client.privacy.calls`):
            computed, so
                that a patient's numbers do not depend on how many others there are, and left out.
            weights: of every image, (n,); 1 / (images of its patient in this call) where not given, so that a patient's
                images are averaged.

        Returns:
            The norms of the gradients before clipping, float64 (largest patient + 1,), on the losses' device; 0 for a
            patient without images. Infinite for one who was left out, since a number overflowed or would: to fail on
            it, or to begin anew, would tell whoever made the weights something about that patient.

        Raises:
            StudyError: a layer that learns ran twice, not at all, or without gradients; a parameter was used outside
                its layer; an input was overwritten. `sums` are then as before.
        """
        numbers = np.asarray(torch.as_tensor(patients).cpu())
        if not numbers.size:
            return torch.zeros(0, dtype=torch.float64)
        anchor = torch.zeros_like(next(iter(self._sums.values())).new_empty(()), requires_grad=True)
        current = _Pass(_order(numbers), anchor)
        weight = current.order.weights if weights is None else weights
        self._pass = current
        try:
            with _hidden(self._parameters.values()):
                with torch.enable_grad(), self._one_use_each():
                    losses = losses_of()
                self._check(losses, numbers)
                losses.backward(torch.as_tensor(weight, dtype=losses.dtype, device=losses.device))  # type: ignore[no-untyped-call]
        finally:
            self._pass = None
        norms = self._clip(current)
        real = torch.as_tensor(current.order.patients >= 0, device=norms.device)
        result = norms.new_zeros(int(numbers.max(initial=-1)) + 1)
        result[torch.as_tensor(current.order.patients, device=norms.device)[real]] = norms[real]
        return result

    def _check(self, losses: Tensor, patients: IntArray) -> None:
        """Check what a forward pass returned, and that all layers took part in it."""
        if patients.ndim != 1 or losses.shape != patients.shape:
            raise ValueError(f"{tuple(losses.shape)} losses for patients of shape {patients.shape}; one an image")
        if self._pass and (idle := self._hooks.keys() - self._pass.ran):
            raise StudyError(
                f"model: {min(idle)} learns, but took no part in the forward pass, or its parameters were used without "
                "calling it; freeze it, or choose another backbone"
            )

    def _after_forward(
        self, name: str, rule: Rule, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Tensor | None:
        """Keep a layer's input, and wait for the gradient of its output."""
        current = self._pass
        if current is None:
            return None
        if name in current.ran or not torch.is_grad_enabled():
            how = "ran twice in one forward pass" if name in current.ran else "ran without gradients"
            raise StudyError(f"model: {name} learns, but {how}; freeze it, or choose another backbone")
        current.ran.add(name)
        x: Tensor = next(iter((*args, *kwargs.values()))).detach()
        images = current.order.weights.size
        if x.dim() < 2 or x.shape[0] != images or output.shape[0] != images:
            raise StudyError(
                f"model: {name} saw a tensor of shape {tuple(x.shape)} where {images} images come first; freeze it, or "
                "choose another backbone"
            )
        current.inputs[name] = (x, x._version)
        if output._is_view():
            # An operation in place would give a view a new history, without the hook below.
            output = output.clone()
        anchored: Tensor = output
        if not output.requires_grad:
            # One of the first layers that learn: nothing before it asks for a gradient.
            anchored = _Anchor.apply(output, current.anchor)
        elif isinstance(rule, FrozenNormRule):
            source, through = next(iter((*args, *kwargs.values()))), partial(self._through_norm, current, name, rule)
            return _Scaled.apply(output.detach(), source, through)  # type: ignore[no-any-return]
        anchored.register_hook(partial(self._after_backward, current, name, rule))  # type: ignore[no-untyped-call]
        return anchored

    @torch.no_grad()
    def _after_backward(
        self, current: "_Pass", name: str, rule: Rule, gradient: Tensor, data: Tensor | None = None
    ) -> None:
        """Compute a layer's shares, and let go of its input where they do not need it.

        `data` receives the gradient at a frozen norm's input, where nothing has to be sorted or converted.
        """
        x, version = current.inputs.pop(name)
        if x._version != version:
            raise StudyError(f"model: {name} learns, but its input was overwritten; choose another backbone")
        with _single_precision(x.device):
            current.kind = _exact(gradient)
            x, gradient = (current.order.sorted(value.to(current.kind)) for value in (x, gradient))
            for run, shares in zip(current.order.runs, current.shares, strict=True):
                arguments = x[run.images], gradient[run.images], run.each
                if data is None or not isinstance(rule, FrozenNormRule):
                    found = rule(*arguments)
                else:
                    found = rule(*arguments, data[run.images])
                for share in found:
                    shares.append((f"{name}.{share.parameter}".lstrip("."), share))

    def _through_norm(self, current: "_Pass", name: str, rule: FrozenNormRule, gradient: Tensor) -> Tensor:
        """Compute a frozen norm's shares, and return the gradient at its input."""
        if current.order.index is not None or _exact(gradient) != gradient.dtype:
            self._after_backward(current, name, rule, gradient)
            return rule.data_gradient(gradient)
        data = torch.empty_like(gradient)
        self._after_backward(current, name, rule, gradient, data)
        return data

    @torch.no_grad()
    def _clip(self, current: "_Pass") -> Tensor:
        """Add a pass to the sums, every patient's gradient times its factor; returns the norms."""
        norms = torch.zeros(len(current.order.patients), dtype=torch.float64, device=current.anchor.device)
        into = {name: Sum(values, fresh=name in self._fresh) for name, values in self._sums.items()}
        real = torch.as_tensor(current.order.patients >= 0, device=norms.device)
        with _single_precision(norms.device):
            for run, shares in zip(current.order.runs, current.shares, strict=True):
                if not shares:
                    continue
                others = [(name, share) for name, share in shares if not isinstance(share, Rows)]
                rows = [(name, share) for name, share in shares if isinstance(share, Rows)]
                joined = Joined.of(rows) if rows else None
                shares.clear()
                rows.clear()
                squares, bounds = _bounds(joined, [share for _, share in others], current.kind)
                factors = self.clipping.factors(bounds)
                # Whatever is not so, no number included, leaves a patient out: a function of that patient alone.
                kept = bounds.isfinite() & (factors >= SMALLEST_FACTOR)
                norms[run.patients] = squares.sqrt().where(kept, torch.inf)
                factors = factors.where(kept & real[run.patients], 0)
                broken = None if bool(bounds.isfinite().all()) else ~bounds.isfinite()
                if joined is not None:
                    joined.total(factors, broken, into)
                while others:
                    name, share = others.pop()
                    share.total(factors, broken, into[name])
        self._fresh = {name for name, one in into.items() if one.fresh}
        return norms

    @contextlib.contextmanager
    def _one_use_each(self) -> Iterator[None]:
        """In the first pass, make sure that parameters are used by their layers alone: hooks see nothing else."""
        if self._uses_checked:
            yield
            return
        with _Uses() as uses:
            yield
        for name, parameter in self._parameters.items():
            if uses.counts[id(parameter)] > 1:
                raise StudyError(
                    f"model: {name} learns, but is used {uses.counts[id(parameter)]} times in one forward pass; freeze "
                    "it, or choose another backbone"
                )
        self._uses_checked = True


@contextlib.contextmanager
def _single_precision(device: torch.device) -> Iterator[None]:
    """Compute norms and sums alike: neither in half precision, nor with the ten bits that convolutions may do with."""
    shortened = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = shortened


class _Run(NamedTuple):
    """Patients of equally many images, in sorted order."""

    images: slice
    patients: slice
    each: int


@dataclass(frozen=True)
class _Order:
    """Images sorted so that patients of equally many images, and every patient's images, lie together."""

    index: IntArray | None
    """The sorted images; None where they are sorted as they come."""
    runs: tuple[_Run, ...]
    patients: IntArray
    """The caller's numbers of the sorted patients."""
    weights: FloatArray
    """1 / (images of its patient), of every image, unsorted."""

    def sorted(self, values: Tensor) -> Tensor:
        """Return the rows of a tensor in sorted order."""
        return values if self.index is None else values[torch.as_tensor(self.index, device=values.device)]


def _order(patients: IntArray) -> _Order:
    numbers, first, inverse, counts = np.unique(patients, return_index=True, return_inverse=True, return_counts=True)
    index = np.lexsort((first[inverse], counts[inverse]))
    runs, image, patient = [], 0, 0
    for each, how_many in zip(*np.unique(counts, return_counts=True), strict=True):
        next_image, next_patient = image + int(each * how_many), patient + int(how_many)
        runs.append(_Run(slice(image, next_image), slice(patient, next_patient), int(each)))
        image, patient = next_image, next_patient
    as_they_come = bool((index == np.arange(len(index))).all())
    in_order = numbers[np.lexsort((first, counts))]
    return _Order(None if as_they_come else index, tuple(runs), in_order, 1 / counts[inverse])


@dataclass
class _Pass:
    """What one forward and backward pass leaves behind."""

    order: _Order
    anchor: Tensor
    ran: set[str] = field(default_factory=set)
    inputs: dict[str, tuple[Tensor, int]] = field(default_factory=dict)
    """Inputs of the layers whose gradient has not arrived yet, and the versions that they had then."""
    kind: torch.dtype = torch.float32
    """Of the norms and of what is summed at once."""
    shares: list[list[tuple[str, Share | Rows]]] = field(init=False)
    """Of every run so far, with the names of their parameters."""

    def __post_init__(self) -> None:
        self.shares = [[] for _ in self.order.runs]


def _bounds(joined: Joined | None, shares: list[Share], kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return patients' squared norms over all parameters, and how long their gradients are taken to be, (patients,).

    Args:
        joined: of the short parameters.
        shares: of the other parameters.
        kind: of the sums.
    """
    short = [] if joined is None else [joined.squares]
    squares = torch.stack([*short, *(share.squares for share in shares)]).sum(0)
    reaches = torch.stack([*short, *(share.reach for share in shares)])
    errors = reaches.new_tensor([0.0 for _ in short] + [share.error**2 for share in shares])[:, None]
    believed = squares.sqrt() + (errors * reaches).sum(0).sqrt()
    # As many bits as sums have more than float32, so much more may cancel.
    cancellation = CANCELLATION * torch.finfo(torch.float32).eps / torch.finfo(kind).eps
    return squares, torch.maximum(believed, reaches.sum(0).sqrt() / cancellation)


class _Anchor(torch.autograd.Function):
    """Lets a tensor, unchanged and not copied, require gradients by way of another one."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, _: Tensor) -> Tensor:
        ctx.mark_dirty(output)
        return output

    @staticmethod
    def backward(_: Any, __: Tensor) -> tuple[None, None]:
        return None, None


class _Scaled(torch.autograd.Function):
    """The backward pass of a frozen norm: torch's own also sums what the batch's weight gradient would need."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, _: Tensor, through: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.mark_dirty(output)
        ctx.through = through
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        return None, ctx.through(gradient), None


class _Uses(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that a tensor is an argument of."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[int] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.counts.update({id(value) for value in tree_iter((args, kwargs)) if isinstance(value, nn.Parameter)})
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _hidden(parameters: Collection[nn.Parameter]) -> Iterator[None]:
    """Switch off the parameters' `requires_grad`."""
    if not all(parameter.requires_grad for parameter in parameters):
        raise StudyError("model: a parameter was frozen after private training had been prepared")
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _exact(values: Tensor) -> torch.dtype:
    """Return the type for norms and sums: half precision would round a patient's bound away."""
    return torch.float64 if values.dtype == torch.float64 else torch.float32


def _learning_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that learn by name, once the model is known to keep patients apart."""
    for name, layer in model.named_modules():
        if isinstance(layer, _BatchNorm):
            raise StudyError(f"model: {name} ({type(layer).__name__}) mixes patients; replace it by a frozen norm")
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    if not parameters:
        raise StudyError("model: nothing learns; choose another model.train")
    for name, value in model.named_parameters(remove_duplicate=False):
        if value.requires_grad and name not in parameters:
            raise StudyError(f"model: {name} is also a parameter of another layer, which private training cannot clip")
    return parameters
