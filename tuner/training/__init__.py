"""From a dataset to the files of an adapter.

train           the steps, from top to bottom
plan, auto      every hyperparameter, and the rules for those that nobody gave; these two know no torch
begun           the plan and the time so far, which every checkpoint has with it
machine, model  the device; the base on it, perhaps quantized, with a LoRA
methods         what differs between `supervised` and `preference`; `parts` is what they have in common
tables          the rows as tokens; `sampling` is their order
fitting         training itself; `callbacks` tells of it, `memory` and `checkpoints` keep it going
saving, probes  the result
check           what an adapter would be, before it is trained
launch          several GPUs; `together` is what their processes agree on
"""
