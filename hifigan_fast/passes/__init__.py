"""An ensemble's passes: over flat buffers, as PyTorch's operators, and as autograd functions."""
