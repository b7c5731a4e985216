"""The machines that train one adapter together, as the launcher of their containers names them.

Kubeflow's torch runtime sets torchrun's variables: PET_NNODES, PET_NODE_RANK, PET_MASTER_ADDR and PET_MASTER_PORT.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

PREFIX = "PET_"
_PORT = 29500


@dataclass(frozen=True, slots=True)
class Nodes:
    """This machine among those.

    Attributes:
        count: of machines.
        rank: of this one, from 0; the first does the job, the others train along.
        address, port: where the first one is met.
    """

    count: int = 1
    rank: int = 0
    address: str = ""
    port: int = _PORT

    @property
    def is_first(self) -> bool:
        """Whether this machine does the job."""
        return self.rank == 0

    @staticmethod
    def of_this_process(environment: Mapping[str, str] = os.environ) -> "Nodes":
        """As the environment says; one machine alone where it says nothing.

        Raises:
            ValueError: it does not make sense.
        """
        count = _number(environment, "NNODES", 1)
        if count <= 1:
            return Nodes()
        nodes = Nodes(
            count,
            _number(environment, "NODE_RANK", 0),
            environment.get(PREFIX + "MASTER_ADDR", ""),
            _number(environment, "MASTER_PORT", _PORT),
        )
        if not nodes.address or not 0 <= nodes.rank < count:
            raise ValueError(
                f"{count} machines are to train together (PET_NNODES): each needs PET_NODE_RANK from 0 to {count - 1} "
                "and the first one's address in PET_MASTER_ADDR"
            )
        return nodes


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    """A variable's number."""
    said = environment.get(PREFIX + name) or str(default)
    try:
        return int(said)
    except ValueError:
        raise ValueError(f"{PREFIX}{name} must be a number, and is {said!r}") from None
