"""How fast Ostler is beside what people would use instead: `make bench`, or `python -m benchmarks.speed [PIECE...]`.

Each system runs alone on one core, with the load and the upstream on the others, and they take turns (A, B, A, B).
What is told are ratios within one run, with the median and the range of all rounds; seconds of a machine that others
share mean little by themselves.

    upstream    answers as vLLM does, and costs next to nothing
    systems     what is measured: nothing in between, nginx, Ostler, LiteLLM, Portkey
    load        closed loops of requests, by wrk
    streams     open streams with the time of each event
    trial       a system before an upstream, asked
    pieces      the list of all that is measured; each piece that is not there has a module of its own
    rounds      turns, medians, ranges
    report      RESULTS.md, from what the pieces found
    versions    the machine, and the versions of what a piece used
"""
