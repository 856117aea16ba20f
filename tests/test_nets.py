import pytest
import torch
from torch import nn

from segtune import nets


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return nets.UNet()


def test_parameter_counts_are_the_published_ones(net):
    trainable = sum(p.numel() for p in net.parameters() if p.requires_grad)
    statistics = sum(b.numel() for name, b in net.named_buffers() if name.endswith(("running_mean", "running_var")))
    assert (trainable, statistics, trainable + statistics) == (1_177_649, 1_472, 1_179_121)


def test_logits_have_the_shape_of_the_image(net):
    assert net(torch.zeros(2, 1, 32, 48)).shape == (2, 1, 32, 48)


def test_width_scales_every_level():
    assert nets.UNet(width=2).down[-1][0].out_channels == 32


def test_he_normal_is_truncated_at_two_sigma_and_has_variance_2_over_fan_in(net):
    weight = net.down[4][0].weight
    fan_in = weight[0].numel()
    assert weight.var().item() == pytest.approx(2 / fan_in, rel=0.01)
    assert weight.abs().max() <= 2 * (2 / fan_in) ** 0.5 / 0.8796


def test_transposed_convolutions_are_glorot_uniform_and_biases_zero(net):
    weight = net.up[0].conv.weight
    limit = (6 / (9 * (256 + 128))) ** 0.5
    assert weight.abs().max().item() == pytest.approx(limit, rel=0.01)
    assert weight.var().item() == pytest.approx(limit**2 / 3, rel=0.01)
    assert all((m.bias == 0).all() for m in net.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d))


def test_kernels_are_nine_convolutions_and_four_transposed_ones_without_the_head(net):
    kernels = nets.kernels(net)
    assert len(kernels) == 13
    assert all(kernel.shape[2:] == (3, 3) for kernel in kernels)


def test_same_seed_same_weights():
    def weights(seed):
        torch.manual_seed(seed)
        return nets.UNet(width=2).down[0][0].weight

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_transposed_convolution_keeps_the_rows_that_keras_keeps():
    up = nets.DoubleSize(1, 1)
    nn.init.ones_(up.conv.weight)
    nn.init.zeros_(up.conv.bias)
    image = torch.zeros(1, 1, 2, 2)
    image[0, 0, 0, 0] = 1
    # a pixel at row 0 spreads over rows 0, 1, 2 of the full output; padding=1 would have dropped the first
    assert up(image)[0, 0, :, 0].tolist() == [1, 1, 1, 0]


def keras_twin(keras, width=16):
    """The study's network, written from its description with Keras's own layers, without dropout."""
    layers = keras.layers

    def block(x, channels):
        x = layers.Conv2D(channels, 3, padding="same")(x)
        return layers.ReLU()(layers.BatchNormalization(epsilon=1e-3)(x))

    x = image = keras.Input((None, None, 1))
    skips = []
    for level in range(4):
        x = block(x, width * 2**level)
        skips.append(x)
        x = layers.MaxPooling2D(2)(x)
    x = block(x, width * 16)
    for level in reversed(range(4)):
        x = layers.Conv2DTranspose(width * 2**level, 3, strides=2, padding="same")(x)
        x = block(layers.Concatenate()([x, skips[level]]), width * 2**level)
    return keras.Model(image, layers.Conv2D(1, 1)(x))


def test_forward_pass_equals_a_keras_model_with_the_same_weights(net):
    keras = pytest.importorskip("tensorflow", reason="the independent twin needs TensorFlow").keras
    twin = keras_twin(keras)
    assert twin.count_params() == 1_179_121
    generator = torch.Generator().manual_seed(1)
    convolutions = [m for m in [*net.down, *net.merge] for m in m if isinstance(m, nn.Conv2d)]
    norms = [m for m in [*net.down, *net.merge] for m in m if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:  # as after training: nothing at its neutral value
        for value in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    kinds = {"Conv2D": iter([*convolutions, net.head]), "BatchNormalization": iter(norms)}
    kinds["Conv2DTranspose"] = iter(up.conv for up in net.up)
    for layer in twin.layers:
        source = next(kinds[type(layer).__name__]) if type(layer).__name__ in kinds else None
        if isinstance(source, nn.BatchNorm2d):
            layer.set_weights(
                [v.detach().numpy() for v in (source.weight, source.bias, source.running_mean, source.running_var)]
            )
        elif source is not None:  # Keras: (kh, kw, in, out), transposed (kh, kw, out, in)
            layer.set_weights([source.weight.detach().permute(2, 3, 1, 0).numpy(), source.bias.detach().numpy()])
    image = torch.randn(2, 1, 64, 64, generator=generator)
    net.eval()
    with torch.inference_mode():
        ours = net(image)
    theirs = torch.from_numpy(twin(image.permute(0, 2, 3, 1).numpy(), training=False).numpy()).permute(0, 3, 1, 2)
    difference = (ours - theirs).abs().max().item()
    print(f"largest difference {difference:.2e} at logits up to {ours.abs().max():.2f}")
    assert difference < 1e-4
