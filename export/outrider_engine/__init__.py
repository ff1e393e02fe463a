"""Runs a model bundle: verifies it, walks its ONNX bytes, and answers with calibrated probabilities.

Knows manifests, ONNX bytes and ONNX Runtime; knows no network, no gate, no torch and no onnx package.
"""
