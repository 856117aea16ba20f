"""Use finished runs as models: evaluate them on other data, predict masks, export ONNX files and model cards."""
