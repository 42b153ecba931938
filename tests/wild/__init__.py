"""Other projects' discriminators, restated small: what `accelerate` meets."""
