"""From uploaded files to a frozen dataset."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from demo import BASE_DIR
from registry.artifacts import ArtifactStore
from registry.tuning.orders import Method, TuningOrder
from tests.tuner.data.files import Body, Heard, order, pair, read, row, rows, task, tickets, write
from tuner.data.dataset import read_about, read_split
from tuner.data.finders import Finder, PatternFinder
from tuner.data.prepare import prepare
from tuner.errors import JobFailed, StoppedAt
from tuner.workspace import PrepareTask, Workspace

SPLITS = ("train", "validation", "holdout")


def patterns() -> list[Finder]:
    """Presidio takes seconds to load, and has its own tests."""
    return [PatternFinder()]


class Made:
    """A dataset that was made."""

    def __init__(self, wanted: PrepareTask, folder: Path) -> None:
        self.heard = Heard()
        self.workspace = Workspace(folder)
        self.about = prepare(wanted, self.workspace, self.heard, patterns)
        self.splits = {split: read(self.workspace.dataset / f"{split}.jsonl") for split in SPLITS}

    def prompts(self, split: str) -> set[str]:
        """What a split asks."""
        return {body["messages"][0]["content"] for body in self.splits[split]}

    @property
    def report(self) -> Any:
        """What became of the rows."""
        return self.about["report"]


def make(tmp_path: Path, lines: list[Any], wanted: TuningOrder | None = None, **fields: Any) -> Made:
    """Prepare lines."""
    folder = tmp_path / f"job{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    return Made(task(write(folder / "file", lines), wanted, **fields), folder)


def earlier(made: Made) -> Body:
    """A task's fields for a dataset that an earlier version was made of."""
    return {**after(made), "replayed": "0" * 64}


def after(*made: Made) -> Body:
    """A task's fields for datasets that it comes after, the first of them its parent."""
    folders = [str(each.workspace.dataset) for each in made]
    return {"ancestors": {str(number) * 64: folder for number, folder in enumerate(folders)}, "parents": ("0" * 64,)}


def failure(tmp_path: Path, lines: list[Any], wanted: TuningOrder | None = None, **fields: Any) -> JobFailed:
    """How preparing lines fails."""
    with pytest.raises(JobFailed) as failed:
        make(tmp_path, lines, wanted, **fields)
    return failed.value


def test_tickets_become_a_dataset(tmp_path: Path) -> None:
    """The demo's rows are measured, split by their labels, and kept once each."""
    lines = tickets(300)
    made = make(tmp_path, lines, tokenizer=str(BASE_DIR), context=512)
    counts = made.about["counts"]
    dropped = made.report["duplicates"]["exact"] + made.report["duplicates"]["near"]
    assert sum(counts.values()) == 300 - dropped
    assert dropped < 10
    assert 0.09 < counts["holdout"] / sum(counts.values()) < 0.11
    assert made.about["sources"] == {"uploaded": sum(counts.values())}
    for label, parts in made.report["labels"].items():
        assert abs(parts["holdout"] - 0.1 * sum(parts.values())) < 1.2, label
    tokens = made.report["tokens"]
    assert tokens["limit"] == 512
    assert 10 < tokens["median"] < tokens["longest"] < 200
    assert 0 < tokens["learned"] < tokens["total"]
    kept = {json.dumps(body["messages"]) for body in lines}
    assert all(json.dumps(body["messages"]) in kept for split in SPLITS for body in made.splits[split])
    assert not list(made.workspace.folder.glob("rows*"))


def test_a_prompt_never_crosses_splits(tmp_path: Path) -> None:
    """Rows with the same prompt, but for case and spaces, are in one split, whatever their answers."""
    lines = [
        row(f"  {body['messages'][0]['content'].upper()}", f"other {place}") for place, body in enumerate(rows(60))
    ]
    made = make(tmp_path, [*rows(60), *lines])
    seen: dict[str, set[str]] = {}
    for split in SPLITS:
        for prompt in made.prompts(split):
            seen.setdefault(prompt.strip().casefold(), set()).add(split)
    assert len(seen) == 60
    assert all(len(splits) == 1 for splits in seen.values())
    assert made.report["duplicates"]["conflicts"] == 60
    assert "60 prompts have several answers" in made.heard.warnings()


def test_the_same_input_gives_the_same_digest_in_every_process(tmp_path: Path) -> None:
    """Neither the seed of Python's hashes, nor the order of a row's keys, nor any folder shows in the digest."""
    lines = [*tickets(60), *rows(40, label="other"), row("Mail a@example.com", "b", source="teacher")]
    first = write(tmp_path / "first", lines)
    second = write(tmp_path / "second", [_turned(body) for body in lines])
    processes = [_process(path, tmp_path, seed) for seed, path in enumerate([first, second])]
    digests = [process.communicate()[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert digests[0] == digests[1]
    assert len(digests[0]) == 64


def test_another_order_of_rows_gives_the_same_files(tmp_path: Path) -> None:
    """The files of rows depend on the rows alone."""
    lines = rows(80)
    one, other = make(tmp_path, lines), make(tmp_path, lines[::-1])
    assert one.splits == other.splits
    assert one.about == other.about


def test_bad_rows_are_left_out_up_to_a_share(tmp_path: Path) -> None:
    """A few bad rows are told and left out; the report has them, too."""
    lines = [*rows(40), "nonsense", row("no answer", ""), *rows(10, 40)]
    made = make(tmp_path, lines)
    assert sum(made.about["counts"].values()) == 50
    assert "2 of 52 rows of the training file are left out: line 41: it is not valid JSON" in made.heard.warnings()
    assert [bad["line"] for bad in made.report["training"]["bad_lines"]] == [41, 42]


def test_every_bad_row_is_written_down(tmp_path: Path) -> None:
    """Each with its file, line and reason, however many there are, and also when the job fails for them."""
    lines: list[Any] = [*rows(60), *["{"] * 30]
    validation = write(tmp_path / "validation", [*rows(20, 100), row("no answer", "")])
    made = make(tmp_path, lines, order(bad_rows_share=0.5), validation=str(validation))
    written = read(made.workspace.bad_rows)
    assert [(each["file"], each["line"]) for each in written] == [
        *(("training", line) for line in range(61, 91)),
        ("validation", 21),
    ]
    assert written[0]["reason"].startswith("it is not valid JSON")
    assert written[-1]["reason"] == "message 2: the assistant's answer is empty"
    assert made.workspace.folder.stat().st_mode & 0o777 == 0o700
    folder = tmp_path / "failed"
    with pytest.raises(JobFailed):
        Made(task(write(tmp_path / "bad", lines)), folder)
    assert len(read(Workspace(folder).bad_rows)) == 30


def test_of_endless_bad_rows_a_million_are_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All are counted."""
    monkeypatch.setattr("tuner.data.bad_rows.MOST", 3)
    made = make(tmp_path, [*rows(60), *["{"] * 5], order(bad_rows_share=0.5))
    assert len(read(made.workspace.bad_rows)) == 3
    assert made.report["training"]["bad"] == 5


def test_more_bad_rows_fail_the_job(tmp_path: Path) -> None:
    """Above the share the job fails, and the message has the counts, the first lines, and no more than these."""
    failed = failure(tmp_path, [*rows(60), *["{"] * 30])
    assert failed.code == "invalid_training_file"
    assert failed.param == "training_file"
    assert failed.message.startswith("30 of 90 rows of the training file cannot be used, more than the 5.0% that")
    assert "lines 61, 62, 63, " in failed.message
    assert ", 79, 80: it is not valid JSON" in failed.message
    assert failed.message.endswith("and 10 more")
    assert len(failed.message) < 400


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "has no rows"),
        (["", "  "], "has no rows"),
        ([b"\xff\xfe\x00"] * 3, "it is not UTF-8 text"),
        (rows(7), "7 usable rows with 7 different prompts are left; 10 different prompts are needed"),
        ([row("the same?", str(number)) for number in range(20)], "1 different prompts are left"),
    ],
)
def test_a_file_that_cannot_be_used_is_told(lines: list[Any], words: str, tmp_path: Path) -> None:
    """Empty files, files of something else, and too few rows each have their own words."""
    failed = failure(tmp_path, lines)
    assert failed.code == "invalid_training_file"
    assert words in failed.message


def test_no_good_row_fails_whatever_the_share(tmp_path: Path) -> None:
    """A share of 1 does not make a dataset of nothing."""
    assert "none of the 3 rows" in failure(tmp_path, ["{"] * 3, order(bad_rows_share=1.0)).message


def test_rows_that_are_too_long_are_told_with_their_tokens(tmp_path: Path) -> None:
    """A row longer than the context is not cut but left out, with how long it is."""
    lines = [*rows(40), row("word " * 600)]
    made = make(tmp_path, lines, tokenizer=str(BASE_DIR), context=512)
    assert "line 41: it has 607 tokens, more than the 512 that a row may have" in made.heard.warnings()
    short = make(tmp_path, lines, order(longest=60, bad_rows_share=1.0), tokenizer=str(BASE_DIR), context=512)
    assert short.report["tokens"]["limit"] == 60
    assert short.report["tokens"]["longest"] <= 60


def test_duplicates_are_dropped(tmp_path: Path) -> None:
    """Rows that say the same, exactly or nearly, are kept once; without a threshold only exact ones are looked for."""
    text = "my parcel with the garden chair was to arrive on monday but the courier has not come, and i worry a lot"
    lines = [*rows(40), row(text, "late"), row(text.upper(), " Late"), row(text + "!", "late")]
    made = make(tmp_path, lines)
    assert made.report["duplicates"] == {"exact": 1, "near": 1, "conflicts": 0}
    assert any("Dropped 2 duplicates, 1 of which" in each.message for each in made.heard.told)
    kept = make(tmp_path, lines, order(near_duplicates=None))
    assert kept.report["duplicates"] == {"exact": 1, "near": None, "conflicts": 0}


def test_personal_data_is_replaced_and_counted(tmp_path: Path) -> None:
    """No file of the dataset has it, and that Presidio is missing is told."""
    lines = [*rows(40), row("I am reachable at jane@example.com", "noted jane@example.com")]
    made = make(tmp_path, lines)
    content = b"".join(path.read_bytes() for path in made.workspace.dataset.iterdir())
    assert b"jane@" not in content
    assert content.count(b"<EMAIL_ADDRESS>") == 2
    assert made.report["personal"] == {"finders": ["patterns"], "found": {"EMAIL_ADDRESS": 2}, "rows": 1}
    assert "Presidio is not installed" in made.heard.warnings()
    kept = make(tmp_path, lines, order(personal_data="keep"))
    assert kept.report["personal"] is None
    assert b"jane@" in b"".join(path.read_bytes() for path in kept.workspace.dataset.iterdir())


def test_a_validation_file_is_the_validation_split(tmp_path: Path) -> None:
    """Its prompts are not trained on, also where the training file has them."""
    shared = rows(5)
    validation = write(tmp_path / "validation", [*rows(20, 100), *[row(_prompt(body), "other") for body in shared]])
    made = make(tmp_path, rows(80), validation=str(validation))
    assert made.about["counts"] == {"train": 65, "validation": 30, "holdout": 10}
    assert {_prompt(body) for body in [*shared, *rows(20, 100)]} == made.prompts("validation")
    assert made.report["validation"]["rows"] == 25


def test_a_bad_validation_file_is_told_by_its_name(tmp_path: Path) -> None:
    """What is wrong with it is not said of the training file."""
    failed = failure(tmp_path, rows(40), validation=str(write(tmp_path / "empty", [])))
    assert (failed.code, failed.param) == ("invalid_validation_file", "validation_file")
    same = failure(tmp_path, rows(40), validation=str(write(tmp_path / "same", rows(40))))
    assert "all rows of the validation file are in the training file" in same.message
    prompts = [row(_prompt(body), "other") for body in rows(40)]
    nothing = failure(tmp_path, rows(40), validation=str(write(tmp_path / "prompts", prompts)))
    assert "no row is left to train on" in nothing.message


def test_what_an_earlier_version_learned_is_mixed_in(tmp_path: Path) -> None:
    """A fifth as many rows as are new come from what it was trained on; none of what was held out for it."""
    first = make(tmp_path, tickets(100))
    second = make(tmp_path, rows(100), **earlier(first))
    replayed = [body for split in SPLITS for body in second.splits[split] if body.get("source") == "replay"]
    new = second.about["counts"]["train"] - len(replayed)
    assert len(replayed) == second.about["sources"]["replay"] == round(0.2 * new)
    assert {_prompt(body) for body in replayed} <= first.prompts("train")
    assert all(body in second.splits["train"] for body in replayed)
    assert second.about["parents"] == ["0" * 64]
    assert second.report["replay"] == {"dataset": "0" * 64, "rows": len(replayed), "wanted": len(replayed)}
    again = make(tmp_path, rows(100), order(replay_share=0.0), **earlier(first))
    assert "replay" not in again.about["sources"]
    other = make(tmp_path, rows(100), TuningOrder("a", "b", "file-1", seed=2), **earlier(first))
    assert {_prompt(body) for body in other.splits["train"]} != {_prompt(body) for body in second.splits["train"]}


def test_replay_without_a_version_before_is_told(tmp_path: Path) -> None:
    """Where it was asked for; a first version that asked for nothing misses nothing."""
    assert (
        "Nothing is replayed: of no version before"
        in make(tmp_path, rows(60), order(replay_share=0.2)).heard.warnings()
    )
    assert "replayed" not in make(tmp_path, rows(60)).heard.warnings()


def test_less_replay_than_was_asked_for_is_told(tmp_path: Path) -> None:
    """All prompts have come again, or too few are left, or the share is less than a row; by itself it is no lack."""
    first = make(tmp_path, rows(60))
    again = make(tmp_path, rows(60), order(replay_share=0.2), **earlier(first))
    wanted = again.report["replay"]["wanted"]
    assert f"0 rows are replayed of {wanted} that were asked for" in again.heard.warnings()
    assert "replayed" not in make(tmp_path, rows(60), **earlier(first)).heard.warnings()
    few = make(tmp_path, rows(60, 100), order(replay_share=5.0), **earlier(first))
    assert f"{few.report['replay']['rows']} rows are replayed of " in few.heard.warnings()
    none = make(tmp_path, rows(60, 100), order(replay_share=0.001), **earlier(first))
    assert "Nothing is replayed: a share of 0.001 of " in none.heard.warnings()


def test_what_was_held_out_stays_so(tmp_path: Path) -> None:
    """No version of a chain is trained on what was held out before it, or judged by what was trained on before it."""
    made = make(tmp_path, rows(60))
    for step in range(1, 4):
        before, made = made, make(tmp_path, rows(60 + 30 * step), order(replay_share=0.5), **earlier(made))
        assert before.prompts("holdout") <= made.prompts("holdout")
        assert not before.prompts("train") & made.prompts("holdout")
        assert not made.prompts("train") & made.prompts("holdout")


def test_nothing_is_held_out_that_any_version_before_was_trained_on(tmp_path: Path) -> None:
    """Not by the parent alone: rows that its file left out come again; what was held out back then is again."""
    first = make(tmp_path, rows(60))
    second = make(tmp_path, rows(60, 100), order(replay_share=0.0), **earlier(first))
    assert not first.prompts("train") & second.prompts("train")
    third = make(tmp_path, rows(60), **after(second, first))
    assert third.prompts("holdout") == first.prompts("holdout")
    forgotten = make(tmp_path, rows(60), order(holdout_share=0.3), **after(second))
    assert forgotten.prompts("holdout") & first.prompts("train")


def test_what_one_version_was_trained_on_is_not_held_out_for_another_ones_sake(tmp_path: Path) -> None:
    """Of two lines, the one held out what the other one learned: that proves nothing any more."""
    one = make(tmp_path, rows(60))
    asked = one.prompts("holdout") | set(sorted(one.prompts("train"))[:20])
    small = order(holdout_share=0.05, validation_share=0.05)
    other = make(tmp_path, [body for body in rows(60) if _prompt(body) in asked], small)
    both = make(tmp_path, rows(90), **after(one, other))
    trained = one.prompts("train") | other.prompts("train")
    assert one.prompts("holdout") & other.prompts("train")
    assert not both.prompts("holdout") & trained


def test_what_was_learned_inside_a_conversation_is_not_held_out(tmp_path: Path) -> None:
    """Its prompt comes as a row of its own later; where it had the weight 0, it may be."""
    for weight in (None, 0):
        longer = [
            {
                "messages": [
                    body["messages"][0],
                    body["messages"][1] | ({} if weight is None else {"weight": 0}),
                    {"role": "user", "content": f"and {place}?"},
                    body["messages"][1],
                ]
            }
            for place, body in enumerate(rows(60))
        ]
        first = make(tmp_path, longer)
        learned = {_prompt(body) for body in first.splits["train"]}
        second = make(tmp_path, rows(60), order(holdout_share=0.3, replay_share=0.0), **earlier(first))
        assert bool(second.prompts("holdout") & learned) == (weight == 0)


def test_what_was_held_out_stays_so_also_where_less_is_wanted(tmp_path: Path) -> None:
    """A smaller share does not set free what was held out before."""
    first = make(tmp_path, rows(60), order(holdout_share=0.4))
    second = make(tmp_path, rows(60), order(holdout_share=0.05), **earlier(first))
    assert len(first.prompts("holdout")) == 24
    assert second.prompts("holdout") == first.prompts("holdout")


def test_a_prompt_that_comes_again_is_not_replayed(tmp_path: Path) -> None:
    """A correction takes the place of what the earlier version was trained on."""
    first = make(tmp_path, rows(60))
    corrections = [row(_prompt(body), "corrected", source="correction") for body in rows(60)]
    second = make(tmp_path, [*corrections, *rows(10, 100)], order(replay_share=10.0), **earlier(first))
    assert "replay" not in second.about["sources"]
    assert second.about["sources"]["correction"] == 60


def test_a_longer_conversation_does_not_tell_what_is_held_out(tmp_path: Path) -> None:
    """An answer inside a conversation is not learned where its prompt is held out or validates."""
    made = make(tmp_path, rows(60))
    kept_out = made.prompts("holdout") | made.prompts("validation")
    longer = [
        {"messages": [*body["messages"], {"role": "user", "content": f"and {place}?"}, body["messages"][1]]}
        for place, body in enumerate(rows(60))
    ]
    both = make(tmp_path, [*rows(60), *longer], order(near_duplicates=None), **earlier(made))
    assert made.prompts("holdout") <= {_prompt(body) for body in both.splits["holdout"]}
    kept_out = {_prompt(body) for split in SPLITS[1:] for body in both.splits[split] if len(body["messages"]) == 2}
    conversations = [body for body in both.splits["train"] if len(body["messages"]) == 4]
    weights = Counter((_prompt(body) in kept_out, body["messages"][1].get("weight")) for body in conversations)
    assert weights.keys() == {(True, 0), (False, None)}


def test_pairs_become_a_dataset(tmp_path: Path) -> None:
    """Preferences are read, split, measured and frozen like rows; contradictions are told."""
    lines = [pair(_prompt(body), "better", "worse") for body in rows(60)]
    made = make(tmp_path, [*lines, pair(_prompt(rows(1)[0]), "worse", "better")], order("dpo"), tokenizer=str(BASE_DIR))
    assert made.about["method"] == "dpo"
    assert made.report["duplicates"]["conflicts"] == 1
    assert "1 pairs contradict another pair" in made.heard.warnings()
    frozen = list(read_split(made.workspace.dataset, "train"))
    assert len(frozen) == made.about["counts"]["train"]
    first = make(tmp_path, tickets(100))
    mixed = make(tmp_path, lines, order("dpo"), **earlier(first))
    assert "Nothing is replayed" in mixed.heard.warnings()


@pytest.mark.parametrize("method", ["supervised", "dpo"])
def test_parts_of_text_become_one_text(tmp_path: Path, method: Method) -> None:
    """In prompts and answers, as a model reads them, so that answers can be held against them."""

    def split_up(messages: list[Body]) -> list[Body]:
        return [
            {**message, "content": [{"type": "text", "text": word} for word in message["content"].split()]}
            for message in messages
        ]

    lines = [pair(_prompt(body)) if method == "dpo" else body for body in rows(40)]
    in_parts = [
        {"input": {"messages": split_up(body["input"]["messages"])}}
        | {name: split_up(body[name]) for name in ("preferred_output", "non_preferred_output")}
        if method == "dpo"
        else {"messages": split_up(body["messages"])}
        for body in lines
    ]
    made = make(tmp_path, in_parts, order(method))
    asked = {"\n".join(_asked(body).split()) for body in lines}
    assert {_asked(body) for split in SPLITS for body in made.splits[split]} == asked
    assert all('"type"' not in json.dumps(body) for split in SPLITS for body in made.splits[split])


def test_a_holdout_of_tool_calls_alone_is_refused(tmp_path: Path) -> None:
    """No gate could pass it, so that is said before anything is trained; one answer of text is enough."""
    call = {"id": "1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
    calls = [{"messages": [body["messages"][0], {"role": "assistant", "tool_calls": [call]}]} for body in rows(40)]
    failed = failure(tmp_path, calls)
    assert failed.code == "invalid_training_file"
    assert failed.message == (
        "the answers of all 4 rows that are held out are calls of tools, which the gate cannot score; add rows with "
        "answers of text"
    )
    held_out = make(tmp_path, rows(40)).prompts("holdout")
    calls[[_prompt(body) in held_out for body in calls].index(True)]["messages"][1] = {
        "role": "assistant",
        "content": "4",
    }
    assert "Only 1 rows are held out with an answer of text" in make(tmp_path, calls).heard.warnings()


def test_a_frozen_dataset_is_read_back(tmp_path: Path) -> None:
    """What is said about it stands beside its rows."""
    made = make(tmp_path, tickets(60))
    assert read_about(made.workspace.dataset) == made.about
    assert {path.name for path in made.workspace.dataset.iterdir()} == {
        *(f"{split}.jsonl" for split in SPLITS),
        "about.json",
    }


def test_it_stops_when_asked(tmp_path: Path) -> None:
    """A job that is paused or cancelled does not wait for its data, and leaves nothing half-made."""
    heard = Heard()
    heard.stop_asked = True
    workspace = Workspace(tmp_path / "job")
    with pytest.raises(StoppedAt):
        prepare(task(write(tmp_path / "file", rows(40))), workspace, heard, patterns)
    assert list(workspace.folder.iterdir()) == []


def test_few_rows_held_out_are_told(tmp_path: Path) -> None:
    """A gate with a handful of rows proves little."""
    assert "Only 4 rows are held out" in make(tmp_path, rows(40)).heard.warnings()


def _prompt(body: Body) -> str:
    content: str = body["messages"][0]["content"]
    return content


def _asked(body: Body) -> str:
    return _prompt(body.get("input", body))


def _turned(value: Any) -> Any:
    """The same JSON with the keys of its objects the other way round."""
    if isinstance(value, dict):
        return {name: _turned(value[name]) for name in reversed(value)}
    return [_turned(each) for each in value] if isinstance(value, list) else value


def _process(path: Path, tmp_path: Path, seed: int) -> "subprocess.Popen[str]":
    """A process of its own that makes a dataset and prints its digest."""
    code = (
        "import sys; from pathlib import Path; from tests.tuner.data.test_prepare import digest_of; "
        "print(digest_of(Path(sys.argv[1]), Path(sys.argv[2])))"
    )
    environment = os.environ | {"PYTHONHASHSEED": str(seed)}
    command = [sys.executable, "-c", code, str(path), str(tmp_path / f"process{seed}")]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def digest_of(path: Path, folder: Path) -> str:
    """The digest that the store gives to the dataset of a file."""
    workspace = Workspace(folder)
    prepare(task(path, tokenizer=str(BASE_DIR), context=512), workspace, Heard(), patterns)
    store = ArtifactStore(str(folder / "store"), folder / "cache")
    return store.put_files({file.name: file for file in workspace.dataset.iterdir()}).digest
