"""The closed loop: from what was seen of an adapter and its policy to a decision, and from a decision to a change.

state           where the loop is with an adapter
seen            what decisions are made from
verdicts        what can be decided, each with its reason
evidence        the tests of a rollout, fed one pair of sessions after another
watching        quality was lost: whether to retrain
rolling_out     a new version serves a few: on, back, or wait
decide          one decision from all of it
transitions     where the loop is after a decision

store           what is kept of an adapter, in one row
turns           one turn of an adapter: look, decide, carry out
  looks         what it asks of whoever reads for it
  recording     verdicts as decisions
  acting        a decision, carried out through the gateway's admin API
  refusals      a decision that cannot be carried out
controller      the job that gives every adapter its turns

reading         reads what is decided from, and feeds the tests of a rollout
  quality       what the watch over the stable version says
  trial         the tests of one rollout, with how far each has read
  scores        sessions of both versions, by their scores
  sessions      which of them count
  limits        requests of both versions: errors, time and cost
  matching      two versions' values made pairs

material        what a training learns from, and the order of the job
  sources       labels, from feedback and from a teacher
  survey        which of them a dataset is made of
  caps          how many of one key
  voices        whether more than one key says that quality was lost

why             everything about an adapter on one screen
  followed      what followed from decisions: revisions and jobs
gauges          where the loop is, as metrics
  done          what it has done so far
replay          a dry run: what a policy would have done in the last days
  replay_watch    alarms, and the trainings that would have followed
  replay_rollout  the canaries that there were
  past            what the adapter's name meant when
  past_labels     what a training would have had when
  moments         what would have been decided
"""
