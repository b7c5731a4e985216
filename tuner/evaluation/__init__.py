"""From a registered candidate to its gate's verdict, and the report of what was seen.

run             all of it, as numbered steps
contenders      who stands against whom
holdout, sets   what they are asked
measuring       asks them, through the gateway; latency, how long they take
comparing       two models on the same rows, with intervals
gate            the rule; parts, what each of its parts is
report          as JSON; plots, the numbers that are drawn
page            for people; drawing, where everything stands in it
"""
