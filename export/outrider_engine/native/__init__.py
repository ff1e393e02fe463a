"""Native engines: TensorRT on a Jetson and TensorRT for RTX, built from a bundle's ONNX model and run without ONNX Runtime.

Nothing here imports either library before an engine is wanted; neither is a dependency.
"""
