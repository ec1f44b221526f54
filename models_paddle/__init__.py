"""The PaddlePaddle side of each twin."""
