"""Layers equivalent to torch's (convolution, batch norm, ReLU, dropout), but faster and more accurate on CPUs."""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

PIECE = 2**19  # number of elements processed at a time, small enough to stay in the processor's cache


class Block(nn.Sequential):
    """Dropout of the input, 3x3 convolution with "same" padding, batch norm (eps 1e-3 as in Keras), and ReLU.

    In evaluation mode, batch norm is folded into the weights of the convolution. In training on a CPU with tensors in
    channels_last, the layers are fused into fewer and more accurate operations.

    Dropout modifies the input in place, so no other operation may need the input in its backward pass.
    Autograd raises an error if another operation needs the input.

    In training, the gradient of the convolution's bias is set to exactly zero. This is its true value, because batch norm
    subtracts the mean and with it the bias. A computed gradient would consist of rounding errors only, and Adam would
    scale them up to full-size steps.

    Args:
        bn_momentum: weight of the current batch in the running statistics.
        dropout: probability of setting an element of the input to zero.
    """

    def __init__(self, in_channels: int, out_channels: int, bn_momentum: float, dropout: float = 0.0) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1),
            nn.BatchNorm2d(out_channels, eps=1e-3, momentum=bn_momentum),
            nn.ReLU(inplace=True),
        )
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        convolution, norm, _ = self
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        assert convolution.bias is not None
        assert norm.running_mean is not None
        assert norm.running_var is not None
        if self.training:
            x = dropped_convolution(x, convolution.weight, convolution.bias.detach(), self.dropout)
            return norm_relu(x, norm, norm.bias + 0 * convolution.bias)
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        weight = convolution.weight * scale[:, None, None, None]
        bias = (convolution.bias - norm.running_mean) * scale + norm.bias
        return F.conv2d(x, weight, bias, padding=1).relu_()


def on_cpu(x: Tensor) -> bool:
    """Return whether this module's CPU implementations can be used for x. Otherwise torch's own layers are better."""
    usual = x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
    return x.device.type == "cpu" and usual and not torch.compiler.is_compiling()


def dropped_convolution(x: Tensor, weight: Tensor, bias: Tensor, p: float) -> Tensor:
    """Apply dropout to x, then a 3x3 convolution with "same" padding. May modify x in place.

    Dropout sets each element to zero with probability p and multiplies the others by 1 / (1 - p). On a CPU, the function draws
    the gaps between zeros, which are geometrically distributed, instead of one random number per element. This has exactly the
    same distribution and is several times as fast for small p. Each call seeds its own generator from torch's global one.
    The factor 1 / (1 - p) is applied to the weights, because they have fewer elements than x.
    """
    if p == 0:
        return F.conv2d(x, weight, bias, padding=1)
    if not (on_cpu(x) and dense(x)):
        return F.conv2d(F.dropout(x, p), weight, bias, padding=1)
    seed = int(torch.randint(2**63 - 1, ()))
    zeros = torch.from_numpy(zeros_among(x.numel(), p, seed))
    result: Tensor = _DroppedConvolution.apply(x, weight / (1 - p), bias, zeros)[1]  # type: ignore[no-untyped-call] # torch has no types for it
    return result


class _DroppedConvolution(torch.autograd.Function):
    """Set the elements of x at the memory positions `zeros` to 0, in place. Return x and its convolution with weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, zeros: Tensor) -> tuple[Tensor, Tensor]:
        in_memory(x).index_fill_(0, zeros, 0.0)
        ctx.mark_dirty(x)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, zeros)
        return x, F.conv2d(x, weight, bias, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: None, gradient: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        x, weight, zeros = ctx.saved_tensors
        wanted = [ctx.needs_input_grad[0], True, False]
        d_x, d_weight, _ = torch.ops.aten.convolution_backward(
            gradient, x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, wanted
        )
        if d_x is not None:
            if d_x.stride() != x.stride():
                d_x = torch.empty_like(x).copy_(d_x)
            in_memory(d_x).index_fill_(0, zeros, 0.0)
        return d_x, d_weight, None, None


def norm_relu(x: Tensor, norm: nn.BatchNorm2d, bias: Tensor) -> Tensor:
    """Compute relu(norm(x)) in training mode, with `bias` in place of norm.bias, and update norm's running statistics.

    On a CPU with x in channels_last this uses _NormReLU, because torch's own sums have errors of 1e-4 in that layout.
    """
    assert norm.num_batches_tracked is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.momentum is not None
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
    if not (on_cpu(x) and x.is_contiguous(memory_format=torch.channels_last)):
        statistics = (norm.running_mean, norm.running_var)
        return F.batch_norm(x, *statistics, norm.weight, bias, True, norm.momentum, norm.eps).relu_()
    y, mean, variance = _NormReLU.apply(x, norm.weight, bias, norm.eps)  # type: ignore[no-untyped-call] # as above
    n = x.numel() // x.shape[1]
    with torch.no_grad():
        norm.running_mean.lerp_(mean.to(x.dtype), norm.momentum)
        norm.running_var.lerp_((variance * (n / max(n - 1, 1))).to(x.dtype), norm.momentum)
    result: Tensor = y
    return result


class _NormReLU(torch.autograd.Function):
    """Batch norm and ReLU of x, (B, C, H, W) in channels_last. Also returns each channel's mean and biased variance in float64.

    x is processed in pieces that stay in the processor's cache. Each piece is summed separately, and the sums of the pieces
    are added in float64. torch's kernel for this layout is less accurate, because it adds all pixels sequentially in
    float32.

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
    """Split a channels_last tensor into pieces of about PIECE elements.

    Each piece has the shape (n, C), with one row per pixel.
    """
    channels = x.shape[1]
    pieces: tuple[Tensor, ...] = x.permute(0, 2, 3, 1).view(-1, channels).split(max(1, PIECE // channels))
    return pieces


def dense(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) or x.is_contiguous()


def in_memory(x: Tensor) -> Tensor:
    """Return a 1-D view of a dense (B, C, H, W) tensor. Its elements are in their order in memory."""
    return (x if x.is_contiguous() else x.permute(0, 2, 3, 1)).view(-1)


def zeros_among(n: int, p: float, seed: int) -> NDArray[np.int64]:
    """Simulate n independent trials that succeed with probability p. Return the positions of the successes, ascending.

    Source: Devroye, Non-uniform random variate generation, 1986, chapter X.2 (the geometric distribution by inversion).
    """
    random = np.random.Generator(np.random.SFC64(seed))
    found, last = [], -1
    while last < n:
        rest = n - last
        gaps = random.standard_exponential(int(rest * p + 6 * math.sqrt(rest * p) + 16))
        gaps /= -math.log1p(-p)
        if p < 1e-12:
            np.minimum(gaps, n, out=gaps)  # larger gaps would overflow int64
        positions = gaps.astype(np.int64)  # number of failures before each success
        positions += 1
        found.append(np.cumsum(positions, out=positions))
        positions += last
        last = int(positions[-1])
    positions = np.concatenate(found) if len(found) > 1 else found[0]
    return positions[: np.searchsorted(positions, n)]
