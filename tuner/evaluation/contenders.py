"""Who stands against whom at the gate, by the names under which the gateway serves them."""

from dataclasses import dataclass

from registry.catalog import Catalog


@dataclass(frozen=True, slots=True)
class Contenders:
    """The models of one evaluation.

    Attributes:
        named: the candidate as people write it, such as ``support@8``.
        candidate: its engine name.
        incumbent: the engine name of the stable version; None before the first promote.
        base: the base model's name.
    """

    named: str
    candidate: str
    incumbent: str | None
    base: str

    @property
    def reference(self) -> str:
        """What the candidate has to beat: the incumbent, or the base model before there is one."""
        return self.incumbent or self.base

    @property
    def models(self) -> tuple[str, ...]:
        """Each model once, the candidate first."""
        return tuple(dict.fromkeys((self.candidate, self.reference, self.base)))


def contenders(catalog: Catalog, adapter: str, number: int) -> Contenders:
    """The candidate, what is stable now, and the base model."""
    found = catalog.adapters[adapter]
    stable = found.stable
    return Contenders(
        named=f"{adapter}@{number}",
        candidate=found.versions[number].engine_name,
        incumbent=None if stable is None else stable.engine_name,
        base=found.base,
    )
