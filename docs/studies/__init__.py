"""What the training runs behind docs/fidelity.md and docs/questions.md are, what they measure, their results."""
