"""Keras 3 on a backend other than TensorFlow; in the child process alone.

jax_backend, torch_backend   the runners: `ACTIONS`
session                      a model that is ready to run, and what a backend implements
model, layers                what a model takes, gives and holds; watching its layers
restore                      filling a model from any checkpoint
isolate                      each layer called on a reference's values
"""
