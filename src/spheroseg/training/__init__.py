"""Trains and evaluates networks. `course` makes a model from the data, in these steps:

1. `data` reads the labelled pictures. `scenes` draws synthetic ones, with `shapes`, `illumination`, `specimens`,
   `artefacts` and `camera`. `composed` makes further pictures from photographed spheroids.
2. `crops` cuts random crops from the pictures and varies them with `augmentation`.
3. `train` trains the network, which `unet` defines, and writes it as ONNX.
4. `evaluate` computes the `scores` of models on pictures. `baselines` are simple models to compare with.
"""
