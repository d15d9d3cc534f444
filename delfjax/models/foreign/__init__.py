"""Checkpoints that others wrote (PyTorch, TensorFlow), read without their libraries and without
executing anything."""
