"""The closed loop as a story in two acts, told by real parts: what `ostler demo` runs, and a test, too.

plan.py      how many requests, how fast, and what the adapter's policy is meanwhile
traffic.py   customers' tickets through OpenAI's SDK, and the support desk's word on each answer a little later
ledger.py    what came back: every request, how good each answer was, and what failed
admin.py     the admin API, as far as the story needs it
watching.py  what Ostler did by itself: decisions, revisions, the training job
acts.py      the two acts: the world shifts; a bad version is forced into canary
spoiled.py   makes that bad version
view.py      the story on a terminal while it goes on, or as lines
summary.py   what came of it, in numbers
page.py      the same as one page of HTML, with plots
"""
