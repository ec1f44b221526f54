"""Bytes -> tensors by name -> renamed and transposed tensors -> bytes. numpy only: no framework is imported."""
