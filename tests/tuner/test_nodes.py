"""Which of several machines this is, as Kubeflow's torch runtime says it."""

import pytest

from tuner.nodes import Nodes

SAID = {"PET_NNODES": "2", "PET_NODE_RANK": "1", "PET_MASTER_ADDR": "job-node-0-0.job", "PET_MASTER_PORT": "29400"}


def test_a_machine_knows_its_place_and_the_first_ones_address() -> None:
    """From torchrun's own variables."""
    nodes = Nodes.of_this_process(SAID)
    assert nodes == Nodes(2, 1, "job-node-0-0.job", 29400)
    assert not nodes.is_first
    assert Nodes.of_this_process(SAID | {"PET_NODE_RANK": "0"}).is_first


@pytest.mark.parametrize("said", [{}, {"PET_NNODES": "1", "PET_NODE_RANK": "0"}, {"PET_NNODES": ""}])
def test_one_machine_is_alone(said: dict[str, str]) -> None:
    """It meets nobody."""
    assert Nodes.of_this_process(said) == Nodes()
    assert Nodes().is_first


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"PET_NNODES": "two"}, "PET_NNODES must be a number, and is 'two'"),
        ({"PET_NODE_RANK": "2"}, "PET_NODE_RANK from 0 to 1"),
        ({"PET_MASTER_ADDR": ""}, "PET_MASTER_ADDR"),
    ],
)
def test_what_makes_no_sense_is_named(said: dict[str, str], says: str) -> None:
    """By its variable."""
    with pytest.raises(ValueError, match=says):
        Nodes.of_this_process(SAID | said)
