"""From a registered candidate to its gate's verdict, and the report of what was seen.

run             all of it, as numbered steps
contenders      who stands against whom
questions       what they are asked: holdout, and sets of what must not be lost
rule            what they are held to, told before training; skills, whether the base can do enough of the retention set
measuring       asks them, through the gateway; latency, how long they take; counting, how far it is
comparing       two models on the same rows, with intervals
gate            the rule; parts, what each of its parts is
report          as JSON; plots, the numbers that are drawn
page            for people; drawing, where everything stands in it
"""
