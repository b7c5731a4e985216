"""What is to be tuned, and what came of it: files, jobs with their events and checkpoints, datasets and reports.

The gateway writes what clients ask for and the tuner what becomes of it; they meet only here.

orders          what a job is asked to do: plain structs with their limits, no database
rules           what a job's gate holds its candidate to
tables          the rows
files           uploaded files
needs           which files open jobs need
jobs            jobs: what clients ask for
changes         what clients do, audited
states          their states, and the rules between them
claims          who is at work on a job
dispatch        jobs for which tuners are started elsewhere
backlog         which jobs wait for a tuner
events          what a job says of itself, its checkpoints
datasets        what versions are made from
"""
