"""The layers that can learn privately: what each adds to the clipped sums (`melfed.client.privacy.shares`)."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from melfed.client.privacy.shares import (
    ROW_COST,
    ROW_MEMORY,
    Rows,
    Share,
    Sum,
    by_patient,
    counted,
    ghost_share,
    groups,
    inner_products,
    product_share,
    rows_share,
)
from melfed.common.errors import StudyError
from melfed.common.model.norms import TIMM_NORMS, FrozenStatisticsNorm

SHIFT_COST: Final = 30
"""Multiplications that take as long as one strided addition in the ghost norm of a k×k convolution (likewise)."""

SHIFTED_KERNEL: Final = 9
SHIFTED_POSITIONS: Final = 64
"""A depthwise kernel of more weights, or an output of no more positions, is faster by shifted products on a CPU."""

SIDE_POSITIONS: Final = 256
VECTOR_CHANNELS: Final = 16
"""A depthwise 3×3 kernel of no more output positions is faster by one call for all patients on a CPU, and a strided
kernel by copied patches; the channels of each patient are to fill whole vectors."""

CALL_VALUES: Final = 1 << 14
"""Values of a patient's x from which a norm's gradients are faster by one call a patient on a CPU."""

PATCH_POSITIONS: Final = 64
"""A kernel without a stride, of no more output positions, is faster by copied patches on a CPU."""

CACHE_VALUES: Final = 1 << 18
"""Values of x and g that shifted products, which read them once for every weight, take at a time: 1 MiB of float32."""


_LAST: Final = frozenset({"LayerNorm", "LayerNormFp32", "RmsNorm", "RmsNormFp32"})
"""timm's norms over the last dimensions."""

_SECOND: Final = frozenset({"LayerNorm2d", "LayerNorm2dFp32", "RmsNorm2d", "RmsNorm2dFp32"})
"""timm's norms over the second dimension, of maps (n, channels, height, width)."""

Rule = Callable[[Tensor, Tensor, int], Iterator[Share | Rows]]
"""Maps x, g and the number of images a patient to the shares of a layer's learning parameters ("weight", "bias")."""


def rule_for(name: str, layer: nn.Module) -> Rule:
    """Return how a layer's shares are computed. Which of its parameters learn is read here, once.

    Raises:
        StudyError: the layer learns, and its gradients are not known here.
    """
    learning = frozenset(key for key, value in layer.named_parameters(recurse=False) if value.requires_grad)
    rule: Rule | None = None
    kind = _timm_kind(layer)
    if isinstance(layer, nn.Conv2d) and (type(layer) is nn.Conv2d or pads_by_input(layer)):
        if layer.padding_mode != "zeros":
            raise StudyError(
                f"model: {name} pads by {layer.padding_mode!r}, and private training knows only padding by zeros; "
                "freeze the layer, or choose another backbone"
            )
        rule = _Convolution(layer, learning)
    elif type(layer) is nn.Linear:
        rule = _Linear(learning)
    elif type(layer) is FrozenStatisticsNorm:
        rule = FrozenNormRule(layer, learning)
    elif kind in {"GroupNorm", "GroupNorm1"} or type(layer) is nn.GroupNorm:
        rule = _GroupNorm(cast("nn.GroupNorm", layer), learning)
    elif kind in _LAST or type(layer) in {nn.LayerNorm, nn.RMSNorm}:
        rule = _LayerNorm(layer, learning)
    elif kind in _SECOND:
        rule = _second_last(_LayerNorm(layer, learning))
    elif kind == "LayerScale":
        rule = _layer_scale
    elif kind == "LayerScale2d":
        rule = _second_last(_layer_scale)
    if rule is None or not learning <= ({"gamma"} if kind.startswith("LayerScale") else {"weight", "bias"}):
        raise StudyError(
            f"model: private training does not know a patient's gradients of {', '.join(sorted(learning))} in "
            f"{name or 'the model itself'} ({type(layer).__name__}); freeze the layer, or choose another backbone"
        )
    return rule


def pads_by_input(layer: nn.Module) -> bool:
    """Return whether a layer is timm's convolution that pads its input itself, by as much as the input's size asks."""
    if not type(layer).__module__.startswith("timm."):
        return False
    from timm.layers.conv2d_same import Conv2dSame

    return type(layer) is Conv2dSame


def _timm_kind(layer: nn.Module) -> str:
    """Return which of timm's own norms, or scales of a block's output, a layer is; "" for all others."""
    kind = type(layer)
    return kind.__name__ if kind.__module__ in {TIMM_NORMS, "timm.layers.layer_scale"} else ""


def one_patient_at_a_time(x: Tensor) -> bool:
    """Return whether calls of one patient each are the fast way: on a CPU yes, where a call costs little."""
    return x.device.type == "cpu"


def _bias_share(g: Tensor, channel: int, images: int) -> Share | Rows:
    """Return the share of a bias that is added along one dimension of g."""
    others = [dimension for dimension in range(1, g.dim()) if dimension != channel % g.dim()]
    return rows_share("bias", by_patient(g.sum(others) if others else g, images))


class _Linear:
    def __init__(self, learning: frozenset[str]) -> None:
        self.learning = learning

    def __call__(self, x: Tensor, g: Tensor, images: int) -> Iterator[Share | Rows]:
        if "bias" in self.learning:
            yield _bias_share(g, -1, images)
        if "weight" in self.learning:
            yield product_share(x.reshape(len(x), -1, x.shape[-1]), g.reshape(len(g), -1, g.shape[-1]), images)


class _Convolution:
    def __init__(self, layer: nn.Conv2d, learning: frozenset[str]) -> None:
        self.layer, self.learning = layer, learning

    def __call__(self, x: Tensor, g: Tensor, images: int) -> Iterator[Share | Rows]:
        if "bias" in self.learning:
            yield _bias_share(g, 1, images)
        if "weight" not in self.learning:
            return
        layer = self.layer
        x, padding = self._padded(x)
        if layer.groups == 1 and tuple(layer.kernel_size) == (1, 1) and padding == (0, 0):
            x = x[:, :, :: layer.stride[0], :: layer.stride[1]]
            yield product_share(x.flatten(2).mT, g.flatten(2).mT, images)
        elif layer.groups == 1 and self._ghost_pays(x, g, images):
            yield self._ghost_share(x, g, padding, images)
        else:
            yield self._rows_share(x, g, padding, images)

    def _padded(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return the input, and the zeros that are still to be put on both sides of it: (rows, columns)."""
        layer = self.layer
        left, right, top, bottom = layer._reversed_padding_repeated_twice
        if pads_by_input(layer):
            (top, bottom), (left, right) = (_same_padding(x.shape[2 + axis], layer, axis) for axis in (0, 1))
        if (left, top) == (right, bottom):
            return x, (top, left)
        return F.pad(x, (left, right, top, bottom)), (0, 0)

    def _ghost_pays(self, x: Tensor, g: Tensor, images: int) -> bool:
        inputs, outputs = images * x.shape[2] * x.shape[3], images * g.shape[2] * g.shape[3]
        kernel, weights = math.prod(self.layer.kernel_size), self.layer.weight.numel()
        ghost = inputs**2 * x.shape[1] + outputs**2 * (g.shape[1] + SHIFT_COST * kernel)
        activations = inputs * x.shape[1] + outputs * g.shape[1]
        return ghost < ROW_COST * weights or weights > ROW_MEMORY * activations

    def _ghost_share(self, x: Tensor, g: Tensor, padding: tuple[int, int], images: int) -> Share:
        """Return the share. Input positions are multiplied once, though k×k output positions see each pair."""
        layer, patients = self.layer, x.shape[0] // images
        padded = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
        size, seen = tuple(padded.shape[2:]), tuple(g.shape[2:])
        flat_x, flat_g = (t.flatten(2).mT.reshape(patients, -1, t.shape[1]) for t in (padded, g))
        products, weights = inner_products(flat_x), inner_products(flat_g)
        squares_x, squares_g = (t.diagonal(dim1=1, dim2=2) for t in (products, weights))
        points, pairs = squares_x.reshape(x.shape[0], *size), products.view(patients, images, *size, images, *size)
        lengths, patches = points.new_zeros(x.shape[0], *seen), torch.zeros_like(weights)
        patches = patches.view(patients, images, *seen, images, *seen)
        for offsets in itertools.product(*(range(k) for k in layer.kernel_size)):
            rows, columns = (
                slice(offset * dilation, offset * dilation + stride * (count - 1) + 1, stride)
                for offset, dilation, stride, count in zip(offsets, layer.dilation, layer.stride, seen, strict=True)
            )
            patches += pairs[:, :, rows, columns, :, rows, columns]
            lengths += points[:, rows, columns]
        reach = (lengths.view(patients, -1) * squares_g).sqrt().sum(1).square()
        far = torch.maximum(squares_x.amax(1), squares_g.amax(1))
        squares = (patches.view_as(weights) * weights).sum((1, 2))
        sizes = squares_g.shape[1], x.shape[1] + g.shape[1] + math.prod(layer.kernel_size)

        def total(factors: Tensor, broken: Tensor | None, into: Sum) -> None:
            for part in groups(patients, squares_g.shape[1]):
                rows = slice(part.start * images, part.stop * images)
                out = None if broken is None else broken[part]
                by_image = factors[part].to(g.dtype).repeat_interleave(images)
                scaled = counted(g[rows], out) * by_image[:, None, None, None]
                into.add(self._weight_gradient(counted(x[rows], out), scaled, padding))

        return ghost_share(squares, reach, far, sizes, x.dtype, total)

    def _rows_share(self, x: Tensor, g: Tensor, padding: tuple[int, int], images: int) -> Share | Rows:
        patients = x.shape[0] // images
        if self._shifts_pay(x, g) and not self._side_by_side_pays(x, g):
            return rows_share("weight", self._shifted_products(x, g, padding, images))
        if not one_patient_at_a_time(x) or self._side_by_side_pays(x, g):
            # One call for all: every patient becomes a group of channels, and the batch runs over each one's images.
            x, g = (_side_by_side(t, patients) for t in (x, g))
            rows = self._weight_gradient(x, g, padding, patients)
            return rows_share("weight", rows.view(patients, -1, *rows.shape[1:]))
        if self._patches_pay(x, g):
            return rows_share("weight", self._patch_products(x, g, padding, patients), (0, 3, 1, 2))
        parts = (slice(start, start + images) for start in range(0, x.shape[0], images))
        parts_rows = [self._weight_gradient(x[part], g[part], padding) for part in parts]
        if not parts_rows[0].is_contiguous(memory_format=torch.channels_last):
            return rows_share("weight", torch.stack(parts_rows))
        # Stacked in the order that they lie in, since a copy that transposes takes as long as the gradient itself.
        return rows_share("weight", torch.stack([row.permute(0, 2, 3, 1) for row in parts_rows]), (0, 3, 1, 2))

    def _patches_pay(self, x: Tensor, g: Tensor) -> bool:
        """Return whether products of copied patches are faster on a CPU: a call a patient is slow with a stride, or
        where there are few positions.
        """
        layer, last = self.layer, x.is_contiguous(memory_format=torch.channels_last)
        plain = layer.groups == 1 and max(layer.dilation) == 1
        most = SIDE_POSITIONS if max(layer.stride) > 1 else PATCH_POSITIONS
        return plain and last and x.shape[1] >= VECTOR_CHANNELS and math.prod(g.shape[2:]) <= most

    def _patch_products(self, x: Tensor, g: Tensor, padding: tuple[int, int], patients: int) -> Tensor:
        """Return the patients' gradients, (patients, outputs, *kernel, inputs)."""
        (rows, columns), stride = self.layer.kernel_size, self.layer.stride
        x = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
        seen = x.unfold(2, rows, stride[0]).unfold(3, columns, stride[1])[:, :, : g.shape[2], : g.shape[3]]
        patches = seen.permute(0, 2, 3, 4, 5, 1).reshape(patients, -1, rows * columns * x.shape[1])
        products = torch.bmm(g.permute(0, 2, 3, 1).reshape(patients, -1, g.shape[1]).mT, patches)
        return products.view(patients, g.shape[1], rows, columns, x.shape[1])

    def _side_by_side_pays(self, x: Tensor, g: Tensor) -> bool:
        """Return whether one call for all patients is faster on a CPU, too: where calls are short and channels last.

        Patients of whole vectors' channels are computed alike, wherever they lie.
        """
        depthwise = self.layer.groups == x.shape[1] == g.shape[1] and x.shape[1] % VECTOR_CHANNELS == 0
        last = all(t.is_contiguous(memory_format=torch.channels_last) for t in (x, g))
        short = math.prod(g.shape[2:]) <= SIDE_POSITIONS and tuple(self.layer.kernel_size) == (3, 3)
        return depthwise and last and short

    def _shifts_pay(self, x: Tensor, g: Tensor) -> bool:
        depthwise = self.layer.groups == x.shape[1] == g.shape[1]
        small = math.prod(g.shape[2:]) <= SHIFTED_POSITIONS or math.prod(self.layer.kernel_size) > SHIFTED_KERNEL
        return depthwise and small and one_patient_at_a_time(x)

    def _shifted_products(self, x: Tensor, g: Tensor, padding: tuple[int, int], images: int) -> Tensor:
        """Return the patients' gradients of a depthwise convolution, (patients, channels, 1, *kernel).

        A weight's gradient is the product of g and the input as that weight sees it, without the zeros around it.
        """
        layer, patients = self.layer, x.shape[0] // images
        axes = range(2)
        seen = [
            [
                _overlap(k, x.shape[2 + axis], g.shape[2 + axis], layer, padding, axis)
                for k in range(layer.kernel_size[axis])
            ]
            for axis in axes
        ]
        rows = x.new_zeros(*layer.kernel_size, patients, x.shape[1])
        step = max(1, CACHE_VALUES // (images * (x[0].numel() + g[0].numel())))
        for first in range(0, patients, step):
            part = slice(first * images, (first + step) * images)
            some_x, some_g = x[part], g[part]
            for (i, (x_rows, g_rows)), (j, (x_columns, g_columns)) in itertools.product(*map(enumerate, seen)):
                product = some_x[:, :, x_rows, x_columns] * some_g[:, :, g_rows, g_columns]
                rows[i, j, first : first + step] = by_patient(product.sum((2, 3)), images)
        return rows.permute(2, 3, 0, 1).unsqueeze(2)

    def _weight_gradient(self, x: Tensor, g: Tensor, padding: tuple[int, int], copies: int = 1) -> Tensor:
        """Return the weight gradient of a batch, for `copies` of the layer side by side."""
        layer = self.layer
        weight = layer.weight.detach().to(x.dtype)
        if copies > 1:
            weight = weight.new_empty(()).expand(copies * weight.shape[0], *weight.shape[1:])
        groups, none, mask = copies * layer.groups, [0, 0], [False, True, False]
        grads = torch.ops.aten.convolution_backward.default(
            g, x, weight, None, layer.stride, padding, layer.dilation, False, none, groups, mask
        )
        gradient: Tensor = grads[1]
        return gradient


def _side_by_side(values: Tensor, patients: int) -> Tensor:
    """Return (images, patients · channels, rows, columns) of (patients · images, channels, rows, columns)."""
    images = values.reshape(patients, -1, *values.shape[1:])
    if values.is_contiguous(memory_format=torch.channels_last):
        return images.permute(1, 3, 4, 0, 2).flatten(3).permute(0, 3, 1, 2)
    return images.transpose(0, 1).flatten(1, 2).contiguous()


def _same_padding(size: int, layer: nn.Conv2d, axis: int) -> tuple[int, int]:
    """Return the zeros before and after an axis that make the output's length the input's over the stride."""
    stride, reach = layer.stride[axis], layer.dilation[axis] * (layer.kernel_size[axis] - 1)
    zeros = max((math.ceil(size / stride) - 1) * stride + reach + 1 - size, 0)
    return zeros // 2, zeros - zeros // 2


def _overlap(
    offset: int, inputs: int, outputs: int, layer: nn.Conv2d, padding: tuple[int, int], axis: int
) -> tuple[slice, slice]:
    """Return the inputs that a kernel's weight sees along an axis, zeros left out, and the outputs it sees them for."""
    stride, start = layer.stride[axis], offset * layer.dilation[axis] - padding[axis]
    first = max(0, -(start // stride))
    last = min(outputs - 1, (inputs - 1 - start) // stride)
    count = max(0, last - first + 1)
    begin = max(0, first * stride + start)
    return slice(begin, begin + stride * (count - 1) + 1 if count else begin, stride), slice(first, first + count)


class FrozenNormRule:
    """The shares of a norm with frozen statistics, and its backward pass."""

    def __init__(self, layer: FrozenStatisticsNorm, learning: frozenset[str]) -> None:
        self.layer, self.learning = layer, learning

    def __call__(self, x: Tensor, g: Tensor, images: int, data: Tensor | None = None) -> Iterator[Share | Rows]:
        """Yield the shares; a `Rule`.

        Args:
            x: as a `Rule` has it.
            g: likewise.
            images: likewise.
            data: receives what `data_gradient` returns, while a patient's g is in the processor's cache; None: nothing.
        """
        layer = self.layer
        if one_patient_at_a_time(x) and images * x[0].numel() > CALL_VALUES and "weight" in self.learning:
            weights, biases = self._in_turn(x, g, images, data)
        else:
            if data is not None:
                torch.mul(g, self._scale(g), out=data)
            if "weight" not in self.learning:
                yield _bias_share(g, 1, images)
                return
            mean, variance = (value.detach().to(x.dtype) for value in (layer.running_mean, layer.running_var))
            positions = list(range(2, x.dim()))
            sums = (t.sum(positions) if positions else t for t in ((x - _by_channel(mean, x)).mul_(g), g))
            weights, biases = (by_patient(t, images) for t in sums)
            weights = weights * torch.rsqrt(variance + layer.eps)
        yield rows_share("weight", weights)
        if "bias" in self.learning:
            yield rows_share("bias", biases)

    def _in_turn(self, x: Tensor, g: Tensor, images: int, data: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the patients' gradients of weight and bias, (patients, channels), by a call for each."""
        layer = self.layer
        mean, variance, weight = (
            value.detach().to(x.dtype) for value in (layer.running_mean, layer.running_var, layer.weight)
        )
        weights, biases = (x.new_empty(x.shape[0] // images, x.shape[1]) for _ in range(2))
        scale = None if data is None else self._scale(g)
        for patient, start in enumerate(range(0, x.shape[0], images)):
            part = slice(start, start + images)
            _, weights[patient], biases[patient] = torch.ops.aten.native_batch_norm_backward.default(
                g[part], x[part], weight, mean, variance, None, None, False, layer.eps, [False, True, True]
            )
            if data is not None and scale is not None:
                torch.mul(g[part], scale, out=data[part])
        return weights, biases

    def _scale(self, g: Tensor) -> Tensor:
        """Return what the gradient of each channel is multiplied by."""
        layer = self.layer
        scale = layer.weight.detach() * torch.rsqrt(layer.running_var.detach() + layer.eps)
        return _by_channel(scale.to(g.dtype), g)

    def data_gradient(self, g: Tensor) -> Tensor:
        """Return the gradient at the input, of g's shape. Torch's own backward pass sums weight gradients besides."""
        return g * self._scale(g)


def _by_channel(values: Tensor, x: Tensor) -> Tensor:
    """Return values, one a channel, in a shape that goes with x (images, channels, ...)."""
    return values.view(1, -1, *(1 for _ in x.shape[2:]))


class _GroupNorm:
    def __init__(self, layer: nn.GroupNorm, learning: frozenset[str]) -> None:
        self.layer, self.learning = layer, learning

    def __call__(self, x: Tensor, g: Tensor, images: int) -> Iterator[Share | Rows]:
        if "bias" in self.learning:
            yield _bias_share(g, 1, images)
        if "weight" in self.learning:
            normal = F.group_norm(x, self.layer.num_groups, eps=self.layer.eps)
            share = _bias_share(normal.mul_(g), 1, images)
            yield share._replace(parameter="weight")


class _LayerNorm:
    """The shares of LayerNorm and RMSNorm, timm's included."""

    def __init__(self, layer: nn.Module, learning: frozenset[str]) -> None:
        self.shape = cast("tuple[int, ...]", layer.normalized_shape)
        self.eps, self.learning = cast("float | None", layer.eps), learning
        self.centred = isinstance(layer, nn.LayerNorm)

    def __call__(self, x: Tensor, g: Tensor, images: int) -> Iterator[Share | Rows]:
        """Yield the shares; a `Rule`."""
        shape = self.shape
        terms = {"bias": lambda: g, "weight": lambda: self._normal(x).mul_(g)}
        for parameter in self.learning:
            between = range(1, x.dim() - len(shape))
            term = terms[parameter]()
            yield rows_share(parameter, by_patient(term.sum(list(between)) if between else term, images))

    def _normal(self, x: Tensor) -> Tensor:
        if self.centred:
            return F.layer_norm(x, self.shape, eps=cast("float", self.eps))
        return F.rms_norm(x, self.shape, eps=self.eps)


def _layer_scale(x: Tensor, g: Tensor, images: int) -> Iterator[Share | Rows]:
    """Yield the share of a scale of every channel, the last dimension; a `Rule`."""
    yield _bias_share(x * g, -1, images)._replace(parameter="gamma")


def _second_last(rule: Rule) -> Rule:
    """Return the rule of a layer that does to the second dimension what another one does to the last."""

    def moved(x: Tensor, g: Tensor, images: int) -> Iterator[Share | Rows]:
        return rule(x.movedim(1, -1), g.movedim(1, -1), images)

    return moved
