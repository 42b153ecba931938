"""The speed comparison: the discriminators against every way that plain PyTorch has, after the parity gate."""
