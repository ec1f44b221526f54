"""Networks as files to deploy them with, and as the graphs that align's onnx sides run."""
