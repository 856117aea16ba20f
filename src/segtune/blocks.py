"""Layers that make the networks fast on a CPU and exact: the same functions as torch's, computed otherwise."""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

PIECE = 2**20  # numbers that are worked on at a time: few enough to stay in the cache


class Block(nn.Sequential):
    """3x3 same convolution, batch norm (eps 1e-3 as in Keras), ReLU.

    Evaluated as one convolution and ReLU. In training the convolution's bias gets the gradient that it has, zero, for batch
    norm takes it out again; computed, that would be rounding errors, which Adam scales up to whole steps.
    """

    def __init__(self, in_channels: int, out_channels: int, bn_momentum: float) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1),
            nn.BatchNorm2d(out_channels, eps=1e-3, momentum=bn_momentum),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        convolution, norm, relu = self
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        assert isinstance(relu, nn.ReLU)
        assert convolution.bias is not None
        assert norm.running_mean is not None
        assert norm.running_var is not None
        if self.training:
            bias = convolution.bias.detach() + 0 * convolution.bias
            return norm_relu(F.conv2d(x, convolution.weight, bias, padding=1), norm, relu)
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        weight = convolution.weight * scale[:, None, None, None]
        bias = (convolution.bias - norm.running_mean) * scale + norm.bias
        return relu(F.conv2d(x, weight, bias, padding=1))


def norm_relu(x: Tensor, norm: nn.BatchNorm2d, relu: nn.ReLU) -> Tensor:
    """relu(norm(x)) in training. In channels_last on a CPU by _NormReLU, for torch's own sums there are off by 1e-4."""
    if x.device.type != "cpu" or torch.compiler.is_compiling() or not x.is_contiguous(memory_format=torch.channels_last):
        return relu(norm(x))
    if x.dtype != norm.weight.dtype:
        return relu(norm(x))
    y, mean, variance = _NormReLU.apply(x, norm.weight, norm.bias, norm.eps)
    assert norm.num_batches_tracked is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.momentum is not None
    n = x.numel() // x.shape[1]
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        norm.running_mean.lerp_(mean.to(x.dtype), norm.momentum)
        norm.running_var.lerp_((variance * (n / max(n - 1, 1))).to(x.dtype), norm.momentum)
    return y


class _NormReLU(torch.autograd.Function):
    """Batch norm and ReLU of (B, C, H, W) in channels_last, and each channel's mean and biased variance in float64.

    Works through pieces that stay in the processor's cache, each summed by itself, the sums added in float64: torch's
    kernel for this layout adds up all pixels in float32, one after another.

    Source: Ioffe and Szegedy, Batch normalization, ICML 2015.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        pieces, y = rows(x), torch.empty_like(x)
        n = x.numel() // x.shape[1]
        mean = torch.stack([piece.sum(0) for piece in pieces]).double().sum(0) / n
        square = torch.stack([(piece * piece).sum(0) for piece in pieces]).double().sum(0) / n
        variance = (square - mean * mean).clamp_(min=0)
        scale = weight.double() * torch.rsqrt(variance + eps)
        factor, shift = scale.to(x.dtype), (bias.double() - mean * scale).to(x.dtype)
        for piece, result in zip(pieces, rows(y), strict=True):
            torch.addcmul(shift, piece, factor, out=result).relu_()
        ctx.save_for_backward(x, y, mean, variance, scale)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, y, mean, variance, scale = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        result = torch.empty_like(x)
        sums, products = [], []
        for piece, given, out, into in zip(rows(x), rows(gradient), rows(y), rows(result), strict=True):
            torch.ops.aten.threshold_backward.grad_input(given, out, 0.0, grad_input=into)
            sums.append(into.sum(0))
            products.append((into * piece).sum(0))
        n = x.numel() // x.shape[1]
        d_bias = torch.stack(sums).double().sum(0)
        centred = torch.stack(products).double().sum(0) - mean * d_bias
        slope = -scale * centred / (n * (variance + ctx.eps))
        offset = -scale * d_bias / n - slope * mean
        slope, offset, factor = (value.to(x.dtype) for value in (slope, offset, scale))
        for piece, into in zip(rows(x), rows(result), strict=True):
            torch.addcmul(torch.addcmul(offset, piece, slope), into, factor, out=into)
        d_weight = centred * torch.rsqrt(variance + ctx.eps)
        return result, d_weight.to(x.dtype), d_bias.to(x.dtype), None


def rows(x: Tensor) -> tuple[Tensor, ...]:
    """The pixels of a channels_last tensor, (n, C) each, in pieces of about a million numbers."""
    channels = x.shape[1]
    return x.permute(0, 2, 3, 1).view(-1, channels).split(max(1, PIECE // channels))


class Dropout(nn.Module):
    """Zeroes each element with probability p and multiplies the others by 1 / (1 - p), in place, while training.

    On a CPU it draws the gaps between zeros, which are geometric, and not a number per element: the same distribution,
    exactly, several times as fast at small p as F.dropout, which it is elsewhere. Its generator is seeded from torch's
    global one at each call.

    Source: Devroye, Non-uniform random variate generation, 1986, chapter X.2 (the geometric distribution by inversion).
    Args: p: in [0, 1). What is given to it must be needed by nothing else: autograd says so where it is.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return F.dropout(x, self.p, inplace=True)
        seed = int(torch.randint(2**63 - 1, ()))
        return _Zeroed.apply(x, torch.from_numpy(zeros_among(x.numel(), self.p, seed)), self.p)


class _Zeroed(torch.autograd.Function):
    """x / (1 - p), in place, with zeros at these positions in memory; the gradient alike."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, zeros: Tensor, p: float) -> Tensor:
        ctx.save_for_backward(zeros)
        ctx.p, ctx.layout = p, (x.shape, x.stride())
        ctx.mark_dirty(x)
        in_memory(x.mul_(1 / (1 - p))).index_fill_(0, zeros, 0.0)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (zeros,) = ctx.saved_tensors
        scaled = torch.empty_strided(*ctx.layout, dtype=gradient.dtype)
        torch.mul(gradient, 1 / (1 - ctx.p), out=scaled)
        in_memory(scaled).index_fill_(0, zeros, 0.0)
        return scaled, None, None


def in_memory(x: Tensor) -> Tensor:
    """A dense tensor's elements as they lie in memory, (numel,)."""
    return x.permute(sorted(range(x.dim()), key=lambda axis: (x.stride(axis), x.shape[axis]), reverse=True)).view(-1)


def zeros_among(n: int, p: float, seed: int) -> NDArray[np.int64]:
    """Positions of the successes in n independent trials of probability p, ascending."""
    random = np.random.Generator(np.random.SFC64(seed))
    found, last = [], -1
    while last < n:
        rest = n - last
        gaps = random.standard_exponential(int(rest * p + 6 * math.sqrt(rest * p) + 16))
        gaps /= -math.log1p(-p)
        positions = np.minimum(gaps, n, out=gaps).astype(np.int64)  # this many failures before each success
        positions += 1
        found.append(np.cumsum(positions, out=positions))
        positions += last
        last = int(positions[-1])
    positions = np.concatenate(found) if len(found) > 1 else found[0]
    return positions[: np.searchsorted(positions, n)]
