"""The same training written plainly: what the fast path is compared with. No layer, order in memory or kernel of ours."""

import torch
import torch.nn.functional as F
from torch import nn


class PlainUNet(nn.Module):
    """The study's network as Keras builds it: a transposed convolution's full output without its last row and column."""

    def __init__(self, width):
        super().__init__()
        channels = [width * 2**level for level in range(5)]
        block = lambda i, o: nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o, eps=1e-3), nn.ReLU())  # noqa: E731
        self.down = nn.ModuleList([block(i, o) for i, o in zip([1, *channels], channels, strict=False)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(2 * o, o, 3, stride=2) for o in channels[-2::-1]])
        self.merge = nn.ModuleList([block(2 * o, o) for o in channels[-2::-1]])
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x):
        skips = []
        for level in self.down[:-1]:
            x = level(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.down[-1](x)
        for up, merge, skip in zip(self.up, self.merge, skips[::-1], strict=True):
            x = merge(torch.cat([up(x)[:, :, :-1, :-1], skip], dim=1))
        return self.head(x)


def plain(net):
    """A PlainUNet of the same function as this nets.UNet: its kernels are ours, turned by 180 degrees."""
    twin = PlainUNet(net.head.in_channels)
    weights = {name: value.flip(2, 3) if value.dim() == 4 else value for name, value in net.state_dict().items()}
    twin.load_state_dict({name: value.contiguous().clone() for name, value in weights.items()})
    return twin


def bce_dice(logits, target):
    """BCE + 1 - soft Dice, by the book."""
    p = torch.sigmoid(logits)
    overlap, total = (p * target).sum((1, 2, 3)), (p + target).sum((1, 2, 3))
    return F.binary_cross_entropy(p, target) + 1 - ((2 * overlap + 1e-5) / (total + 1e-5)).mean()


def epoch(net, images, masks, train, val, batch_size, lr=1e-3):
    """One epoch of Adam over the images of `train` in this order; returns the mean losses of both sides."""
    optimizer = torch.optim.Adam(net.parameters(), lr=lr, fused=False, foreach=False)
    means = []
    for side in (train, val):
        total = 0.0
        for index in torch.as_tensor(side).split(batch_size):
            net.train(side is train)
            loss = bce_dice(net(images[index].contiguous()), masks[index].float())
            if side is train:
                optimizer.zero_grad()
                loss.backward()
                for block in (*net.down, *net.merge):  # batch norm takes the bias out: its gradient is zero but for rounding
                    block[0].bias.grad.zero_()
                optimizer.step()
            total += loss.item() * len(index)
        means.append(total / len(side))
    return means
