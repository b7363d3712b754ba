"""TensorFlow's files without TensorFlow: TFRecords, `Example` messages, checkpoints."""
