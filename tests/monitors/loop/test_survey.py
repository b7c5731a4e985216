"""Which labels a dataset is made of, by the rules alone."""

from collections import Counter
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from monitors.loop.survey import Entry, Survey, choose
from registry.policies import LabelSource, RetrainRule

ALL = RetrainRule(most_of_one_key=1.0, sources=("correction", "accepted", "teacher"))


def entry(record: str, key: str, prompt: str, answer: str, source: LabelSource = "correction") -> Entry:
    """A label of that answer to that prompt."""
    return Entry(record, source, key, prompt.encode(), f"{prompt}/{answer}".encode())


def chosen(entries: Sequence[Entry], rule: RetrainRule = ALL) -> Survey:
    """What is chosen of these, the newest first."""
    found = Survey()
    choose(entries, rule, found)
    return found


def test_of_contradicting_corrections_those_of_most_keys_stand() -> None:
    """However often one key says the other."""
    said = [entry("1", "web", "p", "yes"), entry("2", "app", "p", "yes")]
    said += [entry(f"x{number}", "loud", "p", "no") for number in range(9)]
    found = chosen(said)
    assert found.kept == {"2": "correction"}
    assert (found.contradicted, found.repeated, found.found) == (9, 1, 1)


def test_one_correction_does_not_undo_what_many_accept() -> None:
    """An acceptance is a vote, too; of as many votes a correction stands."""
    said = [entry("x", "loud", "p", "no")]
    said += [entry(str(number), f"key-{number}", "p", "yes", "accepted") for number in range(3)]
    assert chosen(said).kept == {"2": "accepted"}
    assert chosen(said[:2]).kept == {"x": "correction"}


def test_a_tie_gives_no_row() -> None:
    """Nobody knows what is right; an accepted answer to that prompt is as doubtful."""
    said = [entry("1", "web", "p", "yes"), entry("2", "app", "p", "no"), entry("3", "web", "p", "maybe", "accepted")]
    said += [entry("4", "web", "q", "yes")]
    found = chosen(said)
    assert found.kept == {"4": "correction"}
    assert found.contradicted == 3


def test_the_newest_correction_of_a_key_is_its_vote() -> None:
    """It may have changed its mind."""
    assert chosen([entry("new", "web", "p", "yes"), entry("old", "web", "p", "no")]).kept == {"new": "correction"}


def test_a_correction_beats_acceptance_and_people_beat_a_teacher() -> None:
    """Where they differ; several accepted answers to one prompt may all be right."""
    said = [
        entry("1", "web", "p", "yes"),
        entry("2", "app", "p", "no", "accepted"),
        entry("3", "app", "q", "one", "accepted"),
        entry("4", "web", "q", "two", "accepted"),
        entry("5", "web", "q", "three", "teacher"),
        entry("6", "web", "r", "four", "teacher"),
    ]
    assert chosen(said).kept == {"1": "correction", "3": "accepted", "4": "accepted", "6": "teacher"}


def test_a_repeated_row_is_of_who_gave_it_first_or_is_trusted() -> None:
    """Else a key could take another's rows away by saying them again."""
    said = [entry("copy", "thief", "p", "yes"), entry("first", "web", "p", "yes")]
    assert chosen(said).kept == {"first": "correction"}
    trusting = RetrainRule(most_of_one_key=1.0, trusted_keys=("thief",))
    assert chosen(said, trusting).kept == {"copy": "correction"}


def test_repeats_do_not_make_room_for_another_key() -> None:
    """The tuner drops them, so they must not count as rows of others."""
    same = [entry(f"w{number}", f"key-{number % 5}", "p", "yes") for number in range(500)]
    flood = [entry(f"x{number}", "loud", f"q{number}", "wrong") for number in range(500)]
    found = chosen([*flood, *same], RetrainRule(most_of_one_key=0.4))
    assert found.found == 501
    assert not found.kept


LABELS = st.lists(
    st.tuples(
        st.sampled_from(["web", "app", "mail", "shop"]),
        st.integers(0, 12),
        st.sampled_from(["yes", "no"]),
        st.sampled_from(["correction", "accepted", "teacher"]),
    ),
    max_size=60,
)


@given(LABELS, st.sampled_from([0.2, 0.34, 0.4, 1.0]), st.sets(st.sampled_from(["web", "app"])))
def test_whatever_was_said_a_dataset_is_fair_and_clean(
    said: list[tuple[str, int, str, LabelSource]], share: float, trusted: set[str]
) -> None:
    """No key above its share, no row twice, at most one corrected answer to a prompt; and the same each time."""
    entries = [
        entry(str(number), key, f"p{prompt}", answer, source)
        for number, (key, prompt, answer, source) in enumerate(said)
    ]
    rule = RetrainRule(most_of_one_key=share, trusted_keys=tuple(sorted(trusted)))
    found = chosen(entries, rule)
    kept = [each for each in entries if each.record in found.kept]
    assert len(kept) == len(found.kept) <= found.found
    assert len({each.row for each in kept}) == len(kept)
    corrected = Counter(each.prompt for each in kept if each.source == "correction")
    assert not corrected or max(corrected.values()) == 1
    for key, rows in Counter(each.key for each in kept).items():
        assert key in trusted or rows <= share * len(kept)
    assert found.found + found.contradicted + found.repeated == len(entries)
    assert chosen(entries, rule).kept == found.kept
