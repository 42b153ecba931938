"""Training HiFi-GAN: generators V1, V2 and V3, mel spectrogram, data, checkpoints and the loop."""
