"""What exists and what is live: adapters, their versions, deployments, keys, and the artifacts behind them.

Imports no other room of Ostler.
"""
