"""A finished run as a model: on other data, on images without labels, as ONNX, and its model card."""
