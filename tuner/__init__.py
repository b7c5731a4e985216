"""The tuner: how versions are made, and what they must show before they may be promoted.

settings        what the process needs to know
app             composition root: /livez, /readyz, /metrics, and the worker beside them
worker          claims jobs and holds them by their lease
stages          what a job goes through, each stage repeatable
workspace       a job's folder on this machine
messages        what child processes tell the worker
child           entry point of the child processes, which alone import torch
data/           from uploaded rows to a frozen dataset
training/       from a dataset to an adapter's files
evaluation/     from an adapter's files to the gate's verdict
"""
