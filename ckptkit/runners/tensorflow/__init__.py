"""TensorFlow and Keras on TensorFlow; in the child process alone.

actions                 the runner: `ACTIONS`
session, setup, devices a model that is ready to run, the switches, where its kernels ran
build, saved_model      models made of code and of files
endpoints               what of a model can be called
restore, variables      filling a model from a checkpoint
graphs, layers          values inside of a graph, and of a Keras model
cuts, isolate           the graph cut at a reference's values
perturb, float64        what outputs see, and what they are in float64
mirrored, outputs       under MirroredStrategy; two models compared in one process
"""
