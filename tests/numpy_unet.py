"""The training step of the study's notebook in float64 numpy, gradients by hand: what segtune's as_run is compared with.

Keras's layers and Keras's Adam, one image at a time. Arrays are (H, W, channels), kernels (3, 3, in, out), the head's
(in, out). Every layer returns its result and a function from the gradient of the result to the gradients of what went in.
"""

import numpy as np

EPS = 1e-3  # of batch norm
MOMENTUM = 0.99  # of its running statistics
SMOOTH = 1e-5  # of soft Dice
LEVELS = range(4)


def convolution(x, w, b):
    """3x3, same: zeros around the image."""
    h, k = x.shape[:2]
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    windows = [(i, j, np.s_[i : i + h, j : j + k]) for i in range(3) for j in range(3)]
    y = b + sum(padded[at] @ w[i, j] for i, j, at in windows)

    def back(dy):
        d_padded, dw = np.zeros_like(padded), np.zeros_like(w)
        for i, j, at in windows:
            d_padded[at] += dy @ w[i, j].T
            dw[i, j] = np.tensordot(padded[at], dy, axes=((0, 1), (0, 1)))
        return d_padded[1:-1, 1:-1], dw, dy.sum((0, 1))

    return y, back


def transposed_convolution(x, w, b):
    """3x3, stride 2, same: every pixel lays down a 3x3 patch, and the last row and column of the sum are cut off."""
    h, k = x.shape[:2]
    windows = [(i, j, np.s_[i : i + 2 * h : 2, j : j + 2 * k : 2]) for i in range(3) for j in range(3)]
    full = np.zeros((2 * h + 1, 2 * k + 1, w.shape[-1]))
    for i, j, at in windows:
        full[at] += x @ w[i, j]

    def back(dy):
        d_full = np.pad(dy, ((0, 1), (0, 1), (0, 0)))
        dx = sum(d_full[at] @ w[i, j].T for i, j, at in windows)
        dw = np.zeros_like(w)
        for i, j, at in windows:
            dw[i, j] = np.tensordot(x, d_full[at], axes=((0, 1), (0, 1)))
        return dx, dw, dy.sum((0, 1))

    return full[:-1, :-1] + b, back


def batch_norm(x, scale, shift):
    """By the image's own mean and biased variance."""
    deviation = np.sqrt(x.var((0, 1)) + EPS)
    normal = (x - x.mean((0, 1))) / deviation

    def back(dy):
        d_scale, d_shift = (dy * normal).mean((0, 1)), dy.mean((0, 1))
        n = x.shape[0] * x.shape[1]
        return (dy - d_shift - normal * d_scale) * scale / deviation, n * d_scale, n * d_shift

    return scale * normal + shift, back


def relu(x):
    return np.maximum(x, 0), lambda dy: dy * (x > 0)


def max_pool(x):
    """2x2; of equal values the first one counts."""
    h, k, channels = x.shape
    quads = x.reshape(h // 2, 2, k // 2, 2, channels).transpose(0, 2, 4, 1, 3).reshape(h // 2, k // 2, channels, 4)
    chosen = np.eye(4)[quads.argmax(-1)]

    def back(dy):
        return (dy[..., None] * chosen).reshape(h // 2, k // 2, channels, 2, 2).transpose(0, 3, 1, 4, 2).reshape(x.shape)

    return quads.max(-1), back


def data_loss(logits, target):
    """BCE - ln(soft Dice) of one image (H, W), and its gradient by the logits."""
    p, n = 1 / (1 + np.exp(-logits)), logits.size
    overlap, total = 2 * (p * target).sum() + SMOOTH, p.sum() + target.sum() + SMOOTH
    value = (np.logaddexp(0, logits) - logits * target).mean() - np.log(overlap / total)
    return value, (p - target) / n - (2 * target / overlap - 1 / total) * p * (1 - p)


class Training:
    """The network, its running statistics and Adam. Changes the arrays of `weights` and `statistics`.

    Args:
        weights: name -> array: {down,merge}.<i>.{kernel,bias,scale,shift}, up.<i>.{kernel,bias}, head.{kernel,bias}.
        statistics: name -> array: {down,merge}.<i>.{mean,variance}.
        lambda_l1, lambda_l2: of the sums of |w| and w^2 over the 3x3 kernels.
        eps: the number of the step, from 1, -> what Adam adds to sqrt(v). Keras's constant; torch adds its own to
            sqrt(v / (1 - 0.999^t)), which is sqrt(1 - 0.999^t) times as much here.
    """

    def __init__(self, weights, statistics, *, lambda_l1=0.0, lambda_l2=0.0, lr=1e-3, eps=lambda t: 1e-7):
        self.weights, self.statistics, self.lr, self.eps, self.t = weights, statistics, lr, eps, 0
        self.lambda_l1, self.lambda_l2 = lambda_l1, lambda_l2
        self.m, self.v = ({name: np.zeros_like(w) for name, w in weights.items()} for _ in range(2))
        self.moments = {}  # of the last image in training

    def block(self, name, x, gradients):
        """Convolution, batch norm, ReLU; gradients: a dict to be filled on the way back, None: evaluation."""
        kernel, bias, scale, shift = (self.weights[f"{name}.{part}"] for part in ("kernel", "bias", "scale", "shift"))
        x, back_convolution = convolution(x, kernel, bias)
        if gradients is None:
            mean, variance = self.statistics[f"{name}.mean"], self.statistics[f"{name}.variance"]
            return np.maximum((x - mean) / np.sqrt(variance + EPS) * scale + shift, 0), None
        # TensorFlow's kernel keeps the unbiased variance, and Keras 2 did not undo that
        self.moments |= {f"{name}.mean": x.mean((0, 1)), f"{name}.variance": x.var((0, 1), ddof=1)}
        x, back_norm = batch_norm(x, scale, shift)
        y, back_relu = relu(x)

        def back(dy):
            d, gradients[f"{name}.scale"], gradients[f"{name}.shift"] = back_norm(back_relu(dy))
            d, gradients[f"{name}.kernel"], gradients[f"{name}.bias"] = back_convolution(d)
            return d

        return y, back

    def forward(self, image, gradients=None):
        """Logits (H, W) of an image (H, W), and the way back from their gradient, which fills `gradients`."""
        x, skips, down, up = image[:, :, None], [], [], []
        for level in LEVELS:
            x, back_block = self.block(f"down.{level}", x, gradients)
            skips.append(x)
            x, back_pool = max_pool(x)
            down.append((back_block, back_pool))
        x, back_bottom = self.block("down.4", x, gradients)
        for level in LEVELS:
            x, back_up = transposed_convolution(x, self.weights[f"up.{level}.kernel"], self.weights[f"up.{level}.bias"])
            n_channels = x.shape[-1]
            x, back_merge = self.block(f"merge.{level}", np.concatenate([x, skips[3 - level]], axis=-1), gradients)
            up.append((back_up, back_merge, n_channels))

        def back(d):
            gradients["head.kernel"], gradients["head.bias"] = np.tensordot(x, d, axes=((0, 1), (0, 1)))[:, None], d.sum()[None]
            d, d_skips = d[:, :, None] @ self.weights["head.kernel"].T, []
            for level in reversed(LEVELS):
                back_up, back_merge, n_channels = up[level]
                d = back_merge(d)
                d_skips.append(d[..., n_channels:])
                d, gradients[f"up.{level}.kernel"], gradients[f"up.{level}.bias"] = back_up(d[..., :n_channels])
            d = back_bottom(d)
            for level in reversed(LEVELS):
                back_block, back_pool = down[level]
                d = back_block(back_pool(d) + d_skips[level])

        return (x @ self.weights["head.kernel"] + self.weights["head.bias"])[..., 0], back

    def penalty(self):
        kernels = [w for w in self.weights.values() if w.ndim == 4]
        return sum(self.lambda_l1 * np.abs(w).sum() + self.lambda_l2 * (w * w).sum() for w in kernels)

    def gradients(self, image, mask):
        """The loss in training, with the penalty, and its gradient by every weight."""
        gradients = {}
        logits, back = self.forward(image, gradients)
        value, d_logits = data_loss(logits, mask)
        back(d_logits)
        for name, w in self.weights.items():
            if w.ndim == 4:
                gradients[name] += self.lambda_l1 * np.sign(w) + 2 * self.lambda_l2 * w
        return value + self.penalty(), gradients

    def step(self, image, mask):
        """One step of Adam by Keras's rule on one image (H, W) and its mask; returns the loss before it.

        Source: Kingma and Ba, Adam, ICLR 2015, the order of computation at the end of section 2.
        """
        value, gradients = self.gradients(image, mask)
        self.t += 1
        rate = self.lr * np.sqrt(1 - 0.999**self.t) / (1 - 0.9**self.t)
        for name, g in gradients.items():
            self.m[name] = 0.9 * self.m[name] + 0.1 * g
            self.v[name] = 0.999 * self.v[name] + 0.001 * g * g
            self.weights[name] -= rate * self.m[name] / (np.sqrt(self.v[name]) + self.eps(self.t))
        for name, moment in self.moments.items():
            self.statistics[name] += (1 - MOMENTUM) * (moment - self.statistics[name])
        return value

    def evaluate(self, image, mask):
        """The data loss of one image by the running statistics."""
        return data_loss(self.forward(image)[0], mask)[0]
