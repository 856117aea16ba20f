"""U-Nets: the network of the published study, and a plain U-Net as commonly used today."""

import itertools
import math
from collections.abc import Iterable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segtune.blocks import Block

CUT = 0.87962566103423978  # standard deviation of a standard normal distribution truncated at -2 and 2


class UNet(nn.Module):
    """U-Net with five resolution levels; each block has one or more 3x3 convolutions with batch norm and ReLU.

    The encoder repeats the following steps four times: a block, 2x2 max pooling, and dropout. It ends with one more
    block. The decoder repeats the following steps four times: a 3x3 transposed convolution of stride 2, the
    concatenation [up, skip], dropout, and a block. The head is a 1x1 convolution to one logit.

    The text of the study describes two convolutions per block. In its notebook the second convolution reads the input of the
    block, so the output of the first one is never used, and each block effectively has one convolution. With width 16 and
    one convolution the network has 1,177,649 trainable parameters + 1,472 running statistics = 1,179,121, as published.
    With two convolutions (conf/model/unet_double.yaml) it has 2,161,361 + 2,944.

    A transposed convolution of stride 2 produces one row and one column too many. Keras crops this row and column at
    the end. PyTorch (with padding=1 and output_padding=1) crops them at the start. All other layers are symmetric under
    rotation by 180 degrees, so the network rotates the image by 180 degrees, and rotates the logits back. This is
    equivalent to Keras's network with rotated kernels, and avoids an explicit crop, which would copy the largest
    tensors.

    Weights are initialised as in Keras, with torch's global random generator: he_normal for convolutions, glorot_uniform
    for transposed convolutions and for the head, zeros for biases.

    Args:
        width: Number of channels of the first level. Level i has width * 2^i channels.
        dropout: Probability of setting an element to zero.
        bn_momentum: Weight of the current batch in the running statistics (1 - momentum in Keras).
        convolutions: Number of convolutions per block, each followed by batch norm and ReLU.
    Shapes: image (B, 1, H, W) float -> logits (B, 1, H, W). H and W must be multiples of 16.
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
        return encode_and_decode(self, image.flip(2, 3)).flip(2, 3)


class PlainUNet(nn.Module):
    """U-Net with five resolution levels in the usual form: no dropout, 2x2 max pooling and 2x2 transposed convolutions.

    Each block has `convolutions` 3x3 convolutions, each followed by a norm and ReLU. The head is a 1x1 convolution to one
    logit. Weights are initialised as in UNet.

    Args:
        width: Number of channels of the first level. Level i has width * 2^i channels.
        convolutions: Number of convolutions per block.
        norm: "batch" or "instance".
        bn_momentum: Weight of the current batch in the running statistics of batch norm.
    Shapes: image (B, 1, H, W) float -> logits (B, 1, H, W). H and W must be multiples of 16.
    Source: Ronneberger et al., U-Net, MICCAI 2015, with "same" padding and batch norm.
    """

    def __init__(self, *, width: int = 16, convolutions: int = 2, norm: str = "batch", bn_momentum: float = 0.1) -> None:
        super().__init__()
        channels = [width * 2**level for level in range(5)]

        def chain(i: int, o: int) -> nn.Module:
            if norm == "batch":
                return blocks(i, o, bn_momentum, 0.0, convolutions)
            inputs = [i, *[o] * (convolutions - 1)]
            layers = [(nn.Conv2d(n, o, 3, padding=1), nn.InstanceNorm2d(o, affine=True), nn.ReLU(inplace=True)) for n in inputs]
            return nn.Sequential(*itertools.chain(*layers))

        self.down = nn.ModuleList(chain(i, o) for i, o in pairwise([1, *channels]))
        self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, kernel_size=2, stride=2) for i, o in pairwise(channels[::-1]))
        self.merge = nn.ModuleList(chain(2 * o, o) for o in channels[-2::-1])
        self.head = nn.Conv2d(width, 1, kernel_size=1)
        self.pool = nn.MaxPool2d(2)
        self.apply(initialise)

    def forward(self, image: Tensor) -> Tensor:
        return encode_and_decode(self, image)


def encode_and_decode(net: UNet | PlainUNet, image: Tensor) -> Tensor:
    """Compute the logits of a U-Net.

    The encoder applies the blocks in `down`, with `pool` between two blocks. The decoder applies `up` and `merge` at
    each level. The last step is `head`.
    """
    skips = []
    x: Tensor = net.down[0](image)
    for level in net.down[1:]:
        skips.append(x)
        x = level(net.pool(x))
    for up, merge in zip(net.up, net.merge, strict=True):
        x = merge(torch.cat([up(x), skips.pop()], dim=1))
    logits: Tensor = net.head(x)
    return logits


class Downsampled(nn.Module):
    """A wrapper that averages blocks of factor x factor pixels, applies a network, and interpolates its logits back.

    This wrapper is used to predict with a run that has data.downsample. In training, the network itself gets pooled
    images.
    """

    def __init__(self, net: nn.Module, factor: int) -> None:
        super().__init__()
        self.net, self.factor = net, factor

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.net(F.avg_pool2d(image, self.factor))
        return F.interpolate(logits, scale_factor=float(self.factor), mode="bilinear", align_corners=False)


class Views(nn.Module):
    """A wrapper that averages a network's probability over several views of the image (test-time augmentation).

    Each view is the image, rotated and enlarged about its centre. The probability that the network predicts for a view
    is resampled back to the grid of the image. A pixel's average includes only the views that show this pixel. Images
    must be square. The result is given as logits between -14 and 14.
    """

    OF = ((0.0, 1.0), (10.0, 1.0), (-10.0, 1.0), (0.0, 1.1))  # rotation [degrees], enlargement

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        total, weight = torch.zeros_like(image, dtype=torch.float32), torch.zeros_like(image, dtype=torch.float32)
        for angle_deg, scale in self.OF:
            cos, sin = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
            there = torch.tensor([[scale * cos, -scale * sin, 0], [scale * sin, scale * cos, 0]], device=image.device)
            back = torch.tensor([[cos / scale, sin / scale, 0], [-sin / scale, cos / scale, 0]], device=image.device)
            view = _resampled(image, back, padding="border") if (angle_deg, scale) != (0, 1) else image
            probability = self.net(view).float().sigmoid()
            seen = torch.ones_like(probability)
            if view is not image:
                probability, seen = (_resampled(part, there, padding="zeros") for part in (probability, seen))
            total, weight = total + probability, weight + seen
        return (total / weight).logit(eps=1e-6)


def _resampled(image: Tensor, matrix: Tensor, *, padding: str) -> Tensor:
    """Resample an image: the value at position x is taken from position matrix @ (x, 1) of the input.

    Coordinates range from -1 to 1 along each side of the image.
    """
    where = F.affine_grid(matrix.expand(len(image), 2, 3), list(image.shape), align_corners=False)
    return F.grid_sample(image, where.to(image.dtype), mode="bilinear", padding_mode=padding, align_corners=False)


def blocks(in_channels: int, out_channels: int, bn_momentum: float, dropout: float, n: int) -> nn.Module:
    """Chain n blocks, with dropout before the first one.

    For n = 1 the block is returned without nn.Sequential around it, so that its weights keep their names in checkpoints.
    """
    first = Block(in_channels, out_channels, bn_momentum, dropout)
    more = [Block(out_channels, out_channels, bn_momentum) for _ in range(n - 1)]
    return nn.Sequential(first, *more) if more else first


def initialise(module: nn.Module) -> None:
    """Initialise the weights of one layer as Keras does: he_normal, glorot_uniform, and zeros for biases.

    he_normal draws from a normal distribution truncated at two standard deviations, with variance 2 / fan_in after truncation.
    Truncation multiplies the standard deviation by 0.8796, so sigma is divided by that factor first. torch's
    `kaiming_normal_` is not used, because it does not truncate.

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
    """Compute the expected sum |w| (l1) and sum w^2 (l2) of the given parameters in a newly initialised network.

    The values follow in closed form from the distributions that `initialise` uses. A normal distribution with standard
    deviation sigma, truncated at 2 sigma, has E|w| = sigma sqrt(2 / pi) (1 - e^-2) / erf(sqrt 2). A uniform distribution on
    (-a, a) has E|w| = a / 2 and E w^2 = a^2 / 3. Biases are 0, and the scales of batch norm are 1.

    Returns: {"l1": ..., "l2": ...}, or {} if the network is neither UNet nor PlainUNet, because its initialisation is
    unknown.
    """
    wanted = {id(parameter) for parameter in parameters}
    sums = {"l1": 0.0, "l2": 0.0}
    if not isinstance(net, UNet | PlainUNet):
        return {}
    for module in net.modules():
        for parameter in module.parameters(recurse=False):
            if id(parameter) in wanted:
                l1, l2 = _expected(module, parameter)
                sums = {"l1": sums["l1"] + parameter.numel() * l1, "l2": sums["l2"] + parameter.numel() * l2}
    return sums


def _expected(module: nn.Module, parameter: nn.Parameter) -> tuple[float, float]:
    """Compute the expected |w| and w^2 of one element of the parameter."""
    if isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d):
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
    """Return the weights of all convolutions and transposed convolutions except 1x1 ones, without biases.

    These are the parameters that the study regularises.
    """
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    return [m.get_parameter("weight") for m in convolutions if set(m.kernel_size) != {1}]


def all_parameters(net: nn.Module) -> list[nn.Parameter]:
    """Return every trainable parameter: kernels, biases, and the scale and shift of batch norm."""
    return [parameter for parameter in net.parameters() if parameter.requires_grad]


REGULARIZED = {"kernels": kernels, "all": all_parameters}
