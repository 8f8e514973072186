"""What two models differ by beside their weights, read from the files; nothing is run.

comparison                files -> a `ModelDifference` for each of the following that differs
vocabularies              words of lookup tables: in a config, in assets, in the graph
signatures                what a SavedModel takes and gives, and its tags
configuration, settings   layers of a Keras config, and what is set in them
graph_ops                 what the signatures of two SavedModels compute with
"""
