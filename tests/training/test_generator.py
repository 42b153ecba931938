import pytest
import torch

from hifigan_fast.training.config import load_config
from hifigan_fast.training.generator import Generator, reach


def keys_of_the_original(config):
    """The original's keys, in its order: per convolution bias, g, v."""
    stages, kernels = len(config.upsample_rates), len(config.resblock_kernel_sizes)
    blocks = {
        "1": ["convs1.0", "convs1.1", "convs1.2", "convs2.0", "convs2.1", "convs2.2"],
        "2": ["convs.0", "convs.1"],
    }
    names = ["conv_pre", *(f"ups.{i}" for i in range(stages))]
    names += [f"resblocks.{j}.{conv}" for j in range(stages * kernels) for conv in blocks[config.resblock]]
    return [f"{name}.{part}" for name in [*names, "conv_post"] for part in ("bias", "weight_g", "weight_v")]


@pytest.mark.parametrize(("name", "parameters"), [("v1", 13_936_130), ("v2", 928_514), ("v3", 1_464_322)])
def test_shapes_keys_and_size(name, parameters):
    config = load_config(name)
    generator = Generator(config)
    assert list(generator.state_dict()) == keys_of_the_original(config)
    assert sum(p.numel() for p in generator.parameters()) == parameters
    y = generator(torch.randn(2, 80, 5))
    assert y.shape == (2, 1, 5 * 256) and y.abs().max() < 1


def test_input_channels_follow_num_mels():
    generator = Generator(load_config("v2", num_mels=100))
    assert generator(torch.randn(1, 100, 3)).shape == (1, 1, 768)


@pytest.mark.parametrize("name", ["v2", "v3"])
def test_forward_is_the_papers(name):
    """Against the formula written out on the state_dict, in float64."""
    config = load_config(name)
    torch.manual_seed(0)
    generator = Generator(config).double()
    x = torch.randn(1, 80, 4, dtype=torch.float64)
    with torch.no_grad():
        expected = formula(dict(generator.named_parameters()), config, x)
        torch.testing.assert_close(generator(x), expected, rtol=1e-10, atol=1e-12)


def formula(p, config, x):
    from torch.nn.functional import conv1d, conv_transpose1d, leaky_relu

    def weights(name):
        g, v = p[f"{name}.weight_g"], p[f"{name}.weight_v"]
        return g * v / v.square().sum((1, 2), keepdim=True).sqrt(), p[f"{name}.bias"]

    def conv(name, x, dilation=1):
        weight, bias = weights(name)
        return conv1d(x, weight, bias, dilation=dilation, padding=dilation * (weight.shape[2] - 1) // 2)

    def block(name, x, dilations):
        for k, d in enumerate(dilations):
            if config.resblock == "1":
                update = conv(f"{name}.convs1.{k}", leaky_relu(x, 0.1), d)
                x = x + conv(f"{name}.convs2.{k}", leaky_relu(update, 0.1))
            else:
                x = x + conv(f"{name}.convs.{k}", leaky_relu(x, 0.1), d)
        return x

    x = conv("conv_pre", x)
    sizes = len(config.resblock_kernel_sizes)
    for i, (rate, kernel) in enumerate(zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True)):
        weight, bias = weights(f"ups.{i}")
        x = conv_transpose1d(leaky_relu(x, 0.1), weight, bias, rate, padding=(kernel - rate) // 2)
        blocks = [block(f"resblocks.{i * sizes + j}", x, d) for j, d in enumerate(config.resblock_dilation_sizes)]
        x = torch.stack(blocks).mean(0)
    return torch.tanh(conv("conv_post", leaky_relu(x, 0.01)))


def test_remove_weight_norm_changes_keys_not_values():
    generator = Generator(load_config("v3"))
    x = torch.randn(1, 80, 4)
    with torch.no_grad():
        before = generator(x)
        generator.remove_weight_norm()
        torch.testing.assert_close(generator(x), before)
    assert not any(key.endswith(("weight_g", "weight_v")) for key in generator.state_dict())


@pytest.mark.parametrize("name", ["v1", "v2", "v3", "odd"])
def test_reach_is_exact(name, tiny_config):
    """The gradient of one frame's samples is zero beyond it, and not zero at its ends."""
    if name == "odd":
        config = tiny_config
        config.upsample_rates, config.upsample_kernel_sizes, config.hop_size = [3, 5], [9, 5], 15
    else:
        config = load_config(name, upsample_initial_channel=16)
    torch.manual_seed(0)
    generator = Generator(config).double()
    before, behind = reach(config)
    x = torch.randn(1, config.num_mels, before + behind + 7, dtype=torch.float64, requires_grad=True)
    frame = before + 3
    generator(x)[..., frame * config.hop_size : (frame + 1) * config.hop_size].square().sum().backward()
    felt = x.grad.abs().amax((0, 1)).nonzero().flatten().tolist()
    assert felt == list(range(frame - before, frame + behind + 1))
