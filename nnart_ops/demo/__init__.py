"""The worked example: a textbook CNN trained on real images with torch.nn and with nnart_ops, side by side.

``python -m nnart_ops.demo`` runs it. :mod:`nnart_ops.demo.train` is written to be read.
"""
