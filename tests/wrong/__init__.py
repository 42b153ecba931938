"""Planted bugs: backends that are wrong in one way each. The parity tests must catch every one of them."""
