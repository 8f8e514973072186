"""What goes into a model and what comes out of it, without running one.

signature, pair_names     names, dtypes and shapes of inputs and outputs; which is which
array_files, sampling     named arrays in files; a part of a large one that stands for it
random_inputs             inputs for a model that comes without any
tiers                     how far apart two runs may be, from what is known of where each ran
compare_outputs, measure  a verdict per output: `results`
hints, formulas           what a difference looks like: transposed, scaled, a unit, ...
float64, layouts          ties broken by float64; the same values with axes in another order
"""
