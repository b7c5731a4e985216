"""The closed loop: from what was seen of an adapter and its policy to a decision, and from a decision to a change.

state           where the loop is with an adapter
seen            what decisions are made from
verdicts        what can be decided, each with its reason
evidence        the tests of a rollout, fed one pair of sessions after another
watching        quality was lost: whether to retrain
rolling_out     a new version serves a few: on, back, or wait
decide          one decision from all of it
"""
