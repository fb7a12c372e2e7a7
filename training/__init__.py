"""Training: the network, its checkpoints, sampling, generated data and the loop."""
