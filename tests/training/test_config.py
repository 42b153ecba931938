import json
import os
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import hifigan_fast
from hifigan_fast.training import step
from hifigan_fast.training.config import BUILT_IN, load_config, save_config


@pytest.fixture
def changed(tmp_path):
    """Writes V1's file with keys changed, or left out where the new value is `...`."""

    def write(**changes):
        values = json.loads(BUILT_IN["v1"].read_text()) | changes
        path = tmp_path / "config.json"
        path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))
        return path

    return write


def test_built_in_configurations_are_the_papers():
    v1, v2, v3 = (load_config(name) for name in ("v1", "v2", "v3"))
    assert [c.upsample_initial_channel for c in (v1, v2, v3)] == [512, 128, 256]
    assert [c.resblock for c in (v1, v2, v3)] == ["1", "1", "2"]
    assert v3.upsample_rates == [8, 8, 4] and v3.resblock_dilation_sizes == [[1, 2], [2, 6], [3, 12]]
    for c in (v1, v2, v3):
        assert (c.learning_rate, c.adam_b1, c.adam_b2, c.lr_decay) == (2e-4, 0.8, 0.99, 0.999)
        assert (c.segment_size, c.fmax, c.fmax_for_loss, c.seed) == (8192, 8000, None, 1234)


def test_saved_configuration_loads_again(tmp_path):
    config = load_config("v3", batch_size=3)
    save_config(config, tmp_path / "config.json")
    assert load_config(tmp_path / "config.json") == config and config.batch_size == 3


def test_unused_keys_may_be_missing(changed):
    load_config(changed(num_gpus=..., num_freq=..., dist_config=..., resblock_initial_channel=64))


def test_byte_order_mark(changed):
    path = changed(batch_size=3)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_config(path).batch_size == 3


def test_failed_save_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    save_config(load_config("v1"), path)

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_config(load_config("v2"), path)
    assert load_config(path) == load_config("v1")


def test_optional_keys_build_the_discriminators(tiny_config, changed, monkeypatch):
    asked = []
    keys = [2, 3, 5, 7, 11], False, [3, 4], True
    for changes in ({}, {"discriminator_periods": [3, 4], "use_spectral_norm": True}):
        config = load_config(changed(**changes))
        tiny_config.discriminator_periods = config.discriminator_periods
        tiny_config.use_spectral_norm = config.use_spectral_norm
        kind = SimpleNamespace(
            MultiPeriodDiscriminator=lambda *args: asked.extend(args) or nn.Linear(1, 1),
            MultiScaleDiscriminator=lambda *args: asked.extend(args) or nn.Linear(1, 1),
        )
        monkeypatch.setitem(step.DISCRIMINATORS, "fast", kind)
        step.Trainer(tiny_config, torch.device("cpu"))
    assert asked == [keys[0], keys[1], keys[1], keys[2], keys[3], keys[3]]


def test_spectral_norm_in_every_discriminator():
    def norms(ensemble):
        return [all(hasattr(c, "weight_u") for c in (*d.convs, d.conv_post)) for d in ensemble.discriminators]

    with torch.device("meta"):
        assert norms(hifigan_fast.MultiPeriodDiscriminator([3], True)) == [True]
        assert norms(hifigan_fast.MultiPeriodDiscriminator([3])) == [False]
        assert norms(hifigan_fast.MultiScaleDiscriminator(True)) == [True, True, True]
        assert norms(hifigan_fast.MultiScaleDiscriminator()) == [True, False, False]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_fft": ...}, "missing key 'n_fft'"),
        ({"segment_sise": 8192}, "unknown key 'segment_sise'; did you mean 'segment_size'?"),
        ({"xyzzy": 1}, "unknown key 'xyzzy'$"),
        ({"batch_size": "16"}, "batch_size: expected int, got '16'"),
        ({"batch_size": True}, "batch_size: expected int, got True"),
        ({"resblock": 1}, "resblock: expected str, got 1"),
        ({"upsample_rates": [8, 8, 2.0, 2]}, r"upsample_rates: expected list\[int\]"),
        ({"fmax": "high"}, r"fmax: expected float \| None, got 'high'"),
        ({"learning_rate": float("nan")}, "learning_rate: expected float, got nan"),
        ({"lr_decay": float("inf")}, "lr_decay: expected float, got inf"),
        ({"use_spectral_norm": 1}, "use_spectral_norm: expected bool, got 1"),
        ({"discriminator_periods": 5}, r"discriminator_periods: expected list\[int\], got 5"),
        ({"discriminator_periods": []}, r"discriminator_periods: expected periods from 1 to segment_size, got \[\]"),
        ({"discriminator_periods": [2, 0]}, r"discriminator_periods: .* got \[2, 0\]"),
        ({"discriminator_periods": [2, 8193]}, r"discriminator_periods: .* got \[2, 8193\]"),
        ({"batch_size": 0}, "batch_size: expected more than 0, got 0"),
        ({"learning_rate": -1.0}, "learning_rate: expected more than 0"),
        ({"seed": -1}, "seed: expected at least 0, got -1"),
        ({"seed": 1 << 64}, r"seed: expected less than 2\^64, got 18446744073709551616"),
        ({"adam_b1": 1.0}, "adam_b1, adam_b2"),
        ({"resblock": "3"}, "resblock: expected '1' or '2', got '3'"),
        ({"hop_size": 512}, "hop_size: expected the product of upsample_rates .* 256, got 512"),
        ({"segment_size": 8200}, "segment_size: expected a multiple of hop_size 256, got 8200"),
        ({"segment_size": 256}, "segment_size: expected more than the mel's reflect pad, 384, got 256"),
        ({"upsample_kernel_sizes": [16, 16, 4]}, "differ in length"),
        ({"upsample_kernel_sizes": [16, 16, 4, 3]}, "upsample_kernel_sizes: expected each rate"),
        ({"resblock_kernel_sizes": [3, 7]}, "differ in length"),
        ({"resblock_kernel_sizes": [3, 7, 10]}, "expected odd sizes"),
        ({"resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3]]}, "expected 3 each for resblock '1'"),
        ({"resblock_kernel_sizes": []}, "lists of positive integers"),
        ({"upsample_initial_channel": 100}, "upsample_initial_channel: must halve 4 times, got 100"),
        ({"win_size": 2048}, "n_fft: expected at least win_size 2048"),
        ({"n_fft": 1025}, "n_fft: expected .* an even number, got 1025"),
        ({"fmax": 12000}, r"fmax: expected 0 <= fmin 0 < fmax <= 11025.0, got 12000"),
    ],
)
def test_bad_values_name_file_and_key(changed, changes, message):
    path = changed(**changes)
    with pytest.raises(ValueError, match=message) as error:
        load_config(path)
    assert str(path) in str(error.value)


def test_a_bad_value_of_a_flag_does_not_blame_the_file():
    for changes, message in (
        ({"segment_size": 1000}, "segment_size: expected a multiple of hop_size 256, got 1000"),
        ({"seed": -1}, "seed: expected at least 0, got -1"),
        ({"batch_size": 2.5}, "batch_size: expected int, got 2.5"),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            load_config("v1", **changes)


def test_bad_files(tmp_path):
    with pytest.raises(ValueError, match="config: expected v1, v2, v3 or a JSON file, got 'v4'"):
        load_config("v4")
    for content, message in (("{", "not valid JSON"), ("[1]", "expected a JSON object, got list")):
        (tmp_path / "c.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            load_config(tmp_path / "c.json")


def test_changes_are_checked_too():
    with pytest.raises(ValueError, match="batch_size: expected more than 0, got -4"):
        load_config("v1", batch_size=-4)
