"""A model becomes a bundle: training, distillation, ONNX, INT8, parity, calibration and certificate. Knows no network."""
