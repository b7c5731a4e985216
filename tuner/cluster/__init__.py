"""Tuning on Kubernetes: each job is done in a pod of its own, by a tuner that does that job alone.

dispatcher      has an object in the cluster for each job that waits, and none for the others
app             its composition root
template        the object that a job becomes, from a file
naming          which object belongs to which job
standing        how an object and its pods stand, in words for clients
mirror          the cluster's objects as they change: list, then watch
api             the API server, through the official client
metrics         pods at work, and whether the API server answers
errors          what the API server refuses
"""
