"""What is to be tuned, and what came of it: files, jobs with their events and checkpoints, datasets and reports.

The gateway writes what clients ask for and the tuner what becomes of it; they meet only here.

orders          what a job is asked to do: plain structs with their limits, no database
tables          the rows
files           uploaded files
jobs            jobs, their states, and who is at work on them
events          what a job says of itself, its checkpoints
datasets        what versions are made from
"""
