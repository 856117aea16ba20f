"""The U-Net of the study, as its notebook ran it."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from segtune.blocks import Block


class UNet(nn.Module):
    """U-Net with one 3x3 convolution, batch norm and ReLU per block, four levels down and up.

    Down: block, 2x2 max pool, dropout, four times; one more block at the bottom. Up: 3x3 transposed convolution of stride
    2, concatenation [up, skip], dropout, block, four times. Head: 1x1 convolution to one logit. The study's text wants two
    convolutions per block; its notebook wires the second from the block's input, which leaves the first one dead. With
    width 16: 1,177,649 trainable parameters + 1,472 running statistics = 1,179,121, as published.

    Keras crops the transposed convolution's odd row and column at the end, PyTorch (padding=1, output_padding=1) at the
    start. All else is the same either way round, so the network works on the image turned by 180 degrees and turns its logits
    back: Keras's network with its kernels turned, without a crop that would copy the largest tensors.

    Initialised as in Keras from torch's global generator: he_normal for convolutions, glorot_uniform for transposed ones
    and the head, biases zero.

    Args:
        width: channels of the first level; level i has width * 2^i.
        dropout: probability of zeroing an element.
        bn_momentum: weight of the new batch in the running statistics (1 - Keras's momentum).
    Shapes: (B, 1, H, W) float to logits (B, 1, H, W); H and W multiples of 16.
    """

    def __init__(self, *, width: int = 16, dropout: float = 0.05, bn_momentum: float = 0.1) -> None:
        super().__init__()
        channels = [width * 2**level for level in range(5)]
        rates = [0.0, *[dropout] * 4]
        self.down = nn.ModuleList(
            Block(i, o, bn_momentum, rate) for (i, o), rate in zip(pairwise([1, *channels]), rates, strict=True)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(i, o, kernel_size=3, stride=2, padding=1, output_padding=1) for i, o in pairwise(channels[::-1])
        )
        self.merge = nn.ModuleList(Block(2 * o, o, bn_momentum, dropout) for o in channels[-2::-1])
        self.head = nn.Conv2d(width, 1, kernel_size=1)
        self.pool = nn.MaxPool2d(2)
        self.apply(initialise)

    def forward(self, image: Tensor) -> Tensor:
        skips = []
        x = self.down[0](image.flip(2, 3))
        for level in self.down[1:]:
            skips.append(x)
            x = level(self.pool(x))
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([up(x), skips.pop()], dim=1))
        return self.head(x).flip(2, 3)


def initialise(module: nn.Module) -> None:
    """Keras's initialisers. he_normal: variance 2 / fan_in, from a normal that is cut at two of its own sigmas.

    The cut shrinks the standard deviation by 0.8796, so sigma is that much larger; `kaiming_normal_` does not cut.
    Source: He et al., Delving deep into rectifiers, ICCV 2015, equation 10; Glorot and Bengio, AISTATS 2010, equation 16.
    """
    if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
        fan_in = module.weight[0].numel()
        sigma = (2 / fan_in) ** 0.5 / 0.87962566103423978
        nn.init.trunc_normal_(module.weight, std=sigma, a=-2 * sigma, b=2 * sigma)
    elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.xavier_uniform_(module.weight)
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.bias is not None:
        nn.init.zeros_(module.bias)


def kernels(net: nn.Module) -> list[nn.Parameter]:
    """What the study penalises: the weights, not biases, of every convolution and transposed convolution but 1x1 ones."""
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    return [m.get_parameter("weight") for m in convolutions if set(m.kernel_size) != {1}]


def all_parameters(net: nn.Module) -> list[nn.Parameter]:
    """Every trainable parameter: kernels, biases, batch norm's scale and shift."""
    return [parameter for parameter in net.parameters() if parameter.requires_grad]


PENALISED = {"kernels": kernels, "all": all_parameters}
