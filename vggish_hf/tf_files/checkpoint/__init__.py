"""TensorFlow's V1 and V2 checkpoints."""
