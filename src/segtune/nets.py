"""The U-Net of the study, as its notebook ran it and as its text meant it."""

import math
from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn

from segtune.blocks import Block

CUT = 0.87962566103423978  # standard deviation of a unit normal that is cut at -2 and 2


class UNet(nn.Module):
    """U-Net with one 3x3 convolution (or more), batch norm and ReLU per block, four levels down and up.

    Down: block, 2x2 max pool, dropout, four times; one more block at the bottom. Up: 3x3 transposed convolution of stride
    2, concatenation [up, skip], dropout, block, four times. Head: 1x1 convolution to one logit. The study's text wants two
    convolutions per block; its notebook wires the second from the block's input, which leaves the first one dead. With
    width 16: 1,177,649 trainable parameters + 1,472 running statistics = 1,179,121, as published. With two convolutions
    (conf/model/unet_double.yaml): 2,161,361 + 2,944.

    Keras crops the transposed convolution's odd row and column at the end, PyTorch (padding=1, output_padding=1) at the
    start. All else is the same either way round, so the network works on the image turned by 180 degrees and turns its logits
    back: Keras's network with its kernels turned, without a crop that would copy the largest tensors.

    Initialised as in Keras from torch's global generator: he_normal for convolutions, glorot_uniform for transposed ones
    and the head, biases zero.

    Args:
        width: channels of the first level; level i has width * 2^i.
        dropout: probability of zeroing an element.
        bn_momentum: weight of the new batch in the running statistics (1 - Keras's momentum).
        convolutions: in a block, each with its batch norm and ReLU.
    Shapes: (B, 1, H, W) float to logits (B, 1, H, W); H and W multiples of 16.
    """

    def __init__(self, *, width: int = 16, dropout: float = 0.05, bn_momentum: float = 0.1, convolutions: int = 1) -> None:
        super().__init__()
        channels = [width * 2**level for level in range(5)]
        rates = [0.0, *[dropout] * 4]
        self.down = nn.ModuleList(
            blocks(i, o, bn_momentum, rate, convolutions) for (i, o), rate in zip(pairwise([1, *channels]), rates, strict=True)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(i, o, kernel_size=3, stride=2, padding=1, output_padding=1) for i, o in pairwise(channels[::-1])
        )
        self.merge = nn.ModuleList(blocks(2 * o, o, bn_momentum, dropout, convolutions) for o in channels[-2::-1])
        self.head = nn.Conv2d(width, 1, kernel_size=1)
        self.pool = nn.MaxPool2d(2)
        self.apply(initialise)

    def forward(self, image: Tensor) -> Tensor:
        skips = []
        x: Tensor = self.down[0](image.flip(2, 3))
        for level in self.down[1:]:
            skips.append(x)
            x = level(self.pool(x))
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([up(x), skips.pop()], dim=1))
        logits: Tensor = self.head(x)
        return logits.flip(2, 3)


def blocks(in_channels: int, out_channels: int, bn_momentum: float, dropout: float, n: int) -> nn.Module:
    """n blocks in a row, with dropout before the first; a single one as it is, for the names of its weights."""
    first = Block(in_channels, out_channels, bn_momentum, dropout)
    more = [Block(out_channels, out_channels, bn_momentum) for _ in range(n - 1)]
    return nn.Sequential(first, *more) if more else first


def initialise(module: nn.Module) -> None:
    """Keras's initialisers. he_normal: variance 2 / fan_in, from a normal that is cut at two of its own sigmas.

    The cut shrinks the standard deviation by 0.8796, so sigma is that much larger; `kaiming_normal_` does not cut.
    Source: He et al., Delving deep into rectifiers, ICCV 2015, equation 10; Glorot and Bengio, AISTATS 2010, equation 16.
    """
    if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
        fan_in = module.weight[0].numel()
        sigma = (2 / fan_in) ** 0.5 / CUT
        nn.init.trunc_normal_(module.weight, std=sigma, a=-2 * sigma, b=2 * sigma)
    elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.xavier_uniform_(module.weight)
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.bias is not None:
        nn.init.zeros_(module.bias)


def expected_sums(net: nn.Module, parameters: Iterable[nn.Parameter]) -> dict[str, float]:
    """Expected sum |w| (l1) and sum w^2 (l2) of these parameters of a fresh network, by `initialise`'s distributions.

    A normal of deviation sigma cut at 2 sigma has mean |w| = sigma sqrt(2 / pi) (1 - e^-2) / erf(sqrt 2); a uniform one on
    (-a, a) has a / 2 and mean w^2 = a^2 / 3. Biases are 0, batch norm's scales 1. Empty for a network of other layers.
    """
    wanted = {id(parameter) for parameter in parameters}
    sums = {"l1": 0.0, "l2": 0.0}
    if not isinstance(net, UNet):
        return {}
    for module in net.modules():
        for parameter in module.parameters(recurse=False):
            if id(parameter) in wanted:
                l1, l2 = _expected(module, parameter)
                sums = {"l1": sums["l1"] + parameter.numel() * l1, "l2": sums["l2"] + parameter.numel() * l2}
    return sums


def _expected(module: nn.Module, parameter: nn.Parameter) -> tuple[float, float]:
    """E |w| and E w^2 of one element."""
    if isinstance(module, nn.BatchNorm2d):
        return (1.0, 1.0) if parameter is module.weight else (0.0, 0.0)
    if parameter.dim() == 1:
        return 0.0, 0.0
    if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
        variance = 2 / parameter[0].numel()
        sigma = variance**0.5 / CUT
        return sigma * (2 / math.pi) ** 0.5 * (1 - math.exp(-2)) / math.erf(2**0.5), variance
    largest = (6 / (parameter[0].numel() + parameter[:, 0].numel())) ** 0.5
    return largest / 2, largest**2 / 3


def kernels(net: nn.Module) -> list[nn.Parameter]:
    """What the study penalises: the weights, not biases, of every convolution and transposed convolution but 1x1 ones."""
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    return [m.get_parameter("weight") for m in convolutions if set(m.kernel_size) != {1}]


def all_parameters(net: nn.Module) -> list[nn.Parameter]:
    """Every trainable parameter: kernels, biases, batch norm's scale and shift."""
    return [parameter for parameter in net.parameters() if parameter.requires_grad]


REGULARIZED = {"kernels": kernels, "all": all_parameters}
