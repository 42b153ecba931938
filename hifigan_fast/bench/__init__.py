"""The speed comparison: the discriminators beside plain PyTorch's own ways, after the parity gate."""
