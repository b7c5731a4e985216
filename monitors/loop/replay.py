"""A dry run: what a policy would have done in the last days, by what was recorded, through the code that decides.

replay_watch     alarms of lost quality, and the trainings that would have followed
replay_rollout   the canaries that there were, and what would have become of them
past             what the adapter's name meant when
past_labels      what a training would have had when

Nothing is written. What nobody can know is not guessed: a training makes no version here, costs nothing, and people
always approve.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from monitors.loop.moments import Moment
from monitors.loop.past import Era, PastCanary, canaries, eras
from monitors.loop.past_labels import PastLabels, past_labels
from monitors.loop.replay_rollout import MOST_REQUESTS, RolloutReplay
from monitors.loop.replay_watch import Alarm, WatchReplay
from monitors.loop.replayed import AlarmThen, CanaryThen, Replay
from monitors.loop.store import load
from registry.catalog import Adapter
from registry.policies import Policy

MOST_CANARIES = 50


async def replay(
    connection: AsyncConnection, adapter: Adapter, policy: Policy, since: datetime, until: datetime
) -> Replay:
    """Try a policy on what was recorded; it writes nothing."""
    acting = msgspec.structs.replace(policy, mode="act")
    monitoring = msgspec.structs.replace(adapter.monitoring, quality=policy.quality)
    tried = replace(adapter, policy=acting, monitoring=monitoring)
    found = await eras(connection, adapter.name)
    watch = WatchReplay(connection, tried, found, since, until)
    await watch.feed()
    labels = await _labels(connection, tried, since, until)
    decisions = await watch.decisions(labels)
    rollouts = await _rollouts(connection, tried, canaries(found, since, until))
    requests = sum(each.requests for each in rollouts)
    return Replay(
        adapter=adapter.name,
        since=since,
        until=until,
        mode=policy.mode,
        observations=watch.observations,
        observed_until=watch.last_at,
        labels=len(labels.labels),
        requests=requests,
        alarms=[_alarm(each) for each in watch.alarms],
        decisions=decisions,
        canaries=[_canary(each) for each in rollouts],
        notes=_notes(policy, found, watch, labels, decisions, rollouts),
    )


async def _labels(connection: AsyncConnection, adapter: Adapter, since: datetime, until: datetime) -> PastLabels:
    """The labels since the last training before then; all that there are if there was none."""
    state = (await load(connection, adapter.name)).state
    trained = state.labels_until
    return await past_labels(connection, adapter, None if trained is None else min(trained, since), until)


async def _rollouts(connection: AsyncConnection, adapter: Adapter, found: Sequence[PastCanary]) -> list[RolloutReplay]:
    left = MOST_REQUESTS
    done = []
    for canary in found[:MOST_CANARIES]:
        if {canary.version, canary.incumbent} <= adapter.versions.keys():
            rollout = RolloutReplay.begin(adapter, canary)
            await rollout.run(connection, left)
            left -= rollout.requests
            done.append(rollout)
    return done


def _alarm(alarm: Alarm) -> AlarmThen:
    return AlarmThen(alarm.at, alarm.quality.version, alarm.quality.recent, alarm.quality.level)


def _canary(rollout: RolloutReplay) -> CanaryThen:
    canary = rollout.canary
    return CanaryThen(
        version=canary.version,
        incumbent=canary.incumbent,
        by_person=canary.by_person,
        since=canary.since,
        until=canary.until,
        ended=canary.ended,
        moments=rollout.moments,
        waits=rollout.last,
        comparison=rollout.comparison,
    )


def _notes(
    policy: Policy,
    found: Sequence[Era],
    watch: WatchReplay,
    labels: PastLabels,
    decisions: Sequence[Moment],
    rollouts: Sequence[RolloutReplay],
) -> list[str]:
    said = {
        f"The policy's mode is {policy.mode}: nothing of this would have been done by itself.": policy.mode != "act",
        "No version serves, so nothing was watched.": not found,
        "Nothing was scored in that time by the rule's scorer.": bool(found) and not watch.observations,
        f"More was scored than a dry run takes: what came after {_minute(watch.last_at)} was not looked at. Ask for "
        "fewer days.": watch.is_cut,
        "More requests came to canaries than a dry run takes: the newest were not looked at. Ask for fewer days.": sum(
            each.requests for each in rollouts
        )
        >= MOST_REQUESTS,
        "There are more labels than a dry run takes: the oldest were not counted.": labels.is_cut,
        "Trainings are taken to end at once and without a version, and cost nothing.": bool(decisions),
        "Labels are counted without their texts: what repeats or contradicts another one counts.": bool(decisions),
        "Canaries that a person set are tried as if the loop had set them.": any(
            each.canary.by_person for each in rollouts
        ),
        "It is taken that somebody approves at once.": policy.retrain.approval or policy.rollout.approval,
    }
    return [note for note, holds in said.items() if holds]


def _minute(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M} UTC"
