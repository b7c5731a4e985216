"""What `helm install` prints at its end: where the API is, and how to read the key."""

import pytest

from tests.helm.chart import CHART, NAMESPACE, RELEASE, helm, value_file

PORT_FORWARD = f"kubectl -n {NAMESPACE} port-forward service/{RELEASE}-ostler-gateway 8080:8080"


def notes(value_set: str, *arguments: str) -> str:
    """The notes of an installation with a value set, which nothing comes of."""
    files = f"--values={value_file(value_set)}"
    ran = helm("4", "install", RELEASE, CHART, f"--namespace={NAMESPACE}", "--dry-run=client", files, *arguments)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.partition("\nNOTES:\n")[2]


@pytest.mark.parametrize(
    ("value_set", "arguments", "told"),
    [
        ("tryout", (), PORT_FORWARD),
        ("external", (), "https://llm.example.com/v1"),
        ("everything", (), "by the HTTPRoute: llm.example.org/v1"),
        ("everything", ("--set-json=gateway.httpRoute.hostnames=[]",), "every host of the listeners of public"),
    ],
)
def test_the_way_in_is_told(value_set: str, arguments: tuple[str, ...], told: str) -> None:
    """By an ingress, a route, or from the operator's machine where there is neither."""
    said = notes(value_set, *arguments)
    assert told in said
    assert (PORT_FORWARD in said) == (told == PORT_FORWARD)


def test_the_admin_key_is_where_the_notes_say() -> None:
    """In the Secret and under the key that the values name."""
    assert f"get secret {RELEASE}-ostler-embedded -o jsonpath='{{.data.api-key}}'" in notes("tryout")
    assert "get secret team-admin-key -o jsonpath='{.data.secret}'" in notes("external")
