"""The tuner: how versions are made, and what they must show before they may be promoted.

settings        what the process needs to know
app             composition root: the page, and the worker beside it; wiring: what dispatchers have, too
page            /livez, /readyz and /metrics
worker          claims jobs, or one job, and writes how each ended
single          what a tuner that does one job says by its exit code
holding         the lease on a job, and what is wanted of it, which control hands on
stages          what a job goes through, each stage repeatable; shop is what they work with
sharing         one GPU for a tuner and an engine
disk            whether there is enough of it; fullness, how libraries tell that there is not
context         how many tokens the engine takes
progress        what training tells, kept as events, metrics and checkpoints; results, as a file
ancestry        which datasets a job's own comes after
storing         content that is named afterwards, or gone again
candidates      versions at their gate
sweeping        what ended jobs leave behind
fitness         whether the engine could serve what a job would make, and its gate judge it
lineage         where a version comes from, with base_files for what identifies its base model
code_version    which code this process runs
patience        calls to a gateway that may be away for a while
workspace       a job's folder on this machine
children        have child processes do tasks; launching and process start, hear and stop them
messages        what child processes tell the worker, and telling how
child           entry point of the child processes, which alone import torch (libraries: what they need)
nodes           several machines that train together; joining: what those do that are not the first
cluster/        each job in a pod of its own, on Kubernetes
data/           from uploaded rows to a frozen dataset
training/       from a dataset to an adapter's files
evaluation/     from an adapter's files to the gate's verdict
"""
