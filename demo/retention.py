"""What the tuner's gate asks to see whether an adapter has forgotten the base model's skills.

`python -m demo.retention` writes retention.jsonl again. No row was seen by the base model or replayed to an adapter;
so skills with few prompts, such as sums, have none here.
"""

import json
from pathlib import Path

from demo.skills import Example, pretraining, skills

__all__ = ["FILE", "examples", "main"]

FILE = Path(__file__).resolve().parent / "retention.jsonl"
ROWS = 240
MAX_TOKENS = 48
_RECIPE = FILE.with_name("recipe.json")  # of the base model that ships
_SEED = 1001
_SEEN_SKILLS = 3_000  # in replay at most


def examples() -> list[Example]:
    """The rows, each prompt once."""
    recipe = json.loads(_RECIPE.read_text())
    seen = {each.prompt for each in pretraining(recipe["sizes"]["examples"], recipe["seed"])}
    seen |= {each.prompt for each in skills(_SEEN_SKILLS, recipe["seed"])}
    new = {each.prompt: each for each in skills(4 * ROWS, _SEED) if each.prompt not in seen}
    return list(new.values())[:ROWS]


def main() -> None:
    """Write the file."""
    FILE.write_text("".join(_line(each) + "\n" for each in examples()))


def _line(example: Example) -> str:
    """A row of a golden set."""
    messages = [{"role": "user", "content": example.prompt}, {"role": "assistant", "content": example.answer}]
    return json.dumps({"messages": messages, "scorers": ["exact_match"], "max_tokens": MAX_TOKENS})


if __name__ == "__main__":
    main()
