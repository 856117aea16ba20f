import pytest
import torch
from torch import nn

from plain import bce_dice, plain
from segtune import nets


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return nets.UNet()


def test_parameter_counts_are_the_published_ones(net):
    trainable = sum(p.numel() for p in net.parameters() if p.requires_grad)
    statistics = sum(b.numel() for name, b in net.named_buffers() if name.endswith(("running_mean", "running_var")))
    assert (trainable, statistics, trainable + statistics) == (1_177_649, 1_472, 1_179_121)


def test_two_convolutions_per_block_double_the_blocks_and_keep_the_rest():
    net = nets.UNet(convolutions=2)
    statistics = sum(b.numel() for name, b in net.named_buffers() if name.endswith(("running_mean", "running_var")))
    assert (sum(p.numel() for p in net.parameters()), statistics) == (2_161_361, 2_944)
    assert f"{2_161_361:,} + {2_944:,}" in nets.UNet.__doc__
    assert len(nets.kernels(net)) == 2 * 9 + 4


def test_the_second_convolution_sees_what_the_first_made():
    net = nets.UNet(width=2, convolutions=2)
    net(torch.randn(2, 1, 32, 32)).square().mean().backward()
    for kernel in nets.kernels(net):
        assert kernel.grad.abs().max() > 0


def test_one_convolution_per_block_is_the_network_that_it_always_was():
    torch.manual_seed(0)
    net = nets.UNet(width=2)
    assert [name for name, _ in net.named_parameters()][:4] == [
        "down.0.0.weight",
        "down.0.0.bias",
        "down.0.1.weight",
        "down.0.1.bias",
    ]
    checked = sum((i + 1) * p.double().sum().item() for i, p in enumerate(net.parameters()))
    assert checked == pytest.approx(2078.72627, abs=1e-3)


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
    weight = net.up[0].weight
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


@pytest.fixture
def used():
    """A network as after training: nothing at its neutral value."""
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(2)
    net = nets.UNet(width=4, dropout=0.0).to(memory_format=torch.channels_last)
    for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        for value in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return net


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_keras_s_with_its_kernels_turned(used, training):
    twin = plain(used).train(training)
    image = torch.randn(3, 1, 48, 32, generator=torch.Generator().manual_seed(3))
    logits = used.train(training)(image)
    assert logits.shape == image.shape
    assert (logits - twin(image)).abs().max() < 1e-5 * logits.abs().max()


def test_gradients_are_those_of_the_plain_network(used):
    twin = plain(used)
    generator = torch.Generator().manual_seed(3)
    image, mask = torch.randn(3, 1, 32, 32, generator=generator), torch.rand(3, 1, 32, 32, generator=generator).round()
    for one in (used, twin):
        bce_dice(one.train()(image), mask).backward()
    theirs = dict(twin.named_parameters())
    for name, parameter in used.named_parameters():
        expected = theirs[name].grad.flip(2, 3) if parameter.dim() == 4 else theirs[name].grad
        assert (parameter.grad - expected).abs().max() < 1e-4 * max(1e-3, expected.abs().max()), name


def test_the_network_can_be_exported(used):
    image = torch.randn(1, 1, 32, 32)
    used.eval()
    with torch.inference_mode():
        assert (torch.export.export(used, (image,)).module()(image) - used(image)).abs().max() < 1e-5


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
    kinds["Conv2DTranspose"] = iter(net.up)
    for layer in twin.layers:
        source = next(kinds[type(layer).__name__]) if type(layer).__name__ in kinds else None
        if isinstance(source, nn.BatchNorm2d):
            layer.set_weights(
                [v.detach().numpy() for v in (source.weight, source.bias, source.running_mean, source.running_var)]
            )
        elif source is not None:  # Keras: (kh, kw, in, out), transposed (kh, kw, out, in)
            turned = source.weight.detach().flip(2, 3)
            layer.set_weights([turned.permute(2, 3, 1, 0).numpy(), source.bias.detach().numpy()])
    image = torch.randn(2, 1, 64, 64, generator=generator)
    net.eval()
    with torch.inference_mode():
        ours = net(image)
    theirs = torch.from_numpy(twin(image.permute(0, 2, 3, 1).numpy(), training=False).numpy()).permute(0, 3, 1, 2)
    difference = (ours - theirs).abs().max().item()
    print(f"largest difference {difference:.2e} at logits up to {ours.abs().max():.2f}")
    assert difference < 1e-4


class Bright(torch.nn.Module):
    """In place of a network: the image is the logit."""

    def forward(self, image):
        return image


def test_an_average_over_views_finds_what_is_where_it_is():
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    disc = ((rows - 20) ** 2 + (columns - 44) ** 2 < 81)[None, None]
    logits = nets.Views(Bright())(torch.where(disc, 6.0, -6.0))
    found = (logits > 0)[0, 0]
    assert rows[found].mean().item() == pytest.approx(20, abs=0.2)
    assert columns[found].mean().item() == pytest.approx(44, abs=0.2)
    assert found.sum().item() == pytest.approx(disc.sum().item(), rel=0.05)


@pytest.mark.parametrize("logit", [-100.0, -6.0, 0.0, 2.0, 100.0])
def test_an_average_over_equal_views_is_their_value_and_finite(logit):
    logits = nets.Views(Bright())(torch.full((2, 1, 32, 32), logit))
    assert torch.allclose(logits, torch.tensor(logit).clamp(-13.8155, 13.8155), atol=0.1)
    assert ((logits > 0) == (logit > 0)).all() or logit == 0


def test_a_view_beyond_the_image_does_not_count():
    """Near the corners, rotated views end: the average there is over the others."""
    image = torch.full((1, 1, 32, 32), 3.0)
    assert torch.allclose(nets.Views(Bright())(image), image, atol=1e-3)
