"""The pages that are made from code say what the code says."""

import pytest

from docs.source.files import FOLDER, rendered

PAGES = rendered()


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_page_is_as_its_source_writes_it(name: str) -> None:
    """Whoever changes a setting, a command or a route runs `python -m docs.source` and commits what it writes."""
    assert (FOLDER / name).read_text() == PAGES[name]


def test_secrets_are_marked() -> None:
    """A key or a token is told apart from other settings, each where it stands."""
    lines = [line for line in PAGES["settings.md"].splitlines() if line.startswith("| `")]
    for line in lines:
        name = line.split("`")[1]
        assert ("**Secret.**" in line) == name.endswith(("_key", "_token")), line


def test_nothing_of_the_machine_is_in_a_page() -> None:
    """Defaults that depend on who runs it stand there as the variable that says so."""
    for name, page in PAGES.items():
        assert "/root" not in page, name
        assert "/home/" not in page, name
        assert "/tmp" not in page, name


def test_every_route_says_who_may_call_it() -> None:
    """In words: none is left open by an oversight of the page's."""
    calls, who = PAGES["api.md"].count("\n### "), PAGES["api.md"].count("\nWho: ")
    assert calls == who > 70
    assert PAGES["api.md"].count("Who: anyone.") == 2, "only /livez and /readyz are anyone's"
