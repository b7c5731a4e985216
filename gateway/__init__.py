"""What clients and admins talk to: routes, authentication, routing, engines and hot swap.

Imports `monitors` and `registry`; never torch, vLLM, Evidently or pandas.
"""
