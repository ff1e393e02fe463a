"""A checkpoint directory as transformers saves it becomes ONNX bytes and declared steps. Asks no hub, runs no code of a checkpoint."""
