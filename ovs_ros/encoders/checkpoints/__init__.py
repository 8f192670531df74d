"""Trained open-vocabulary segmenters, rebuilt for inference and filled from their authors' checkpoints."""
