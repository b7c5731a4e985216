"""What tokens cost: by a price list, or as a share of what the engines cost by the hour.

Where somebody else runs the engine, it is a price per million tokens. Where the engines are one's own, an hour of them
costs the same whatever they do: that money is shared out among the hour's requests by their part of the work, which is
measured in weighted tokens (see docs/costs.md for the weights).
"""

import json
from collections.abc import Iterable
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, field_validator, model_validator
from pydantic_settings import NoDecode

GPUS_PER_REPLICA = 1
PROMPT_TOKEN_WEIGHT = 1.0
COMPLETION_TOKEN_WEIGHT = 4.0

_Money = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
_Weight = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]


class Pricing(BaseModel, frozen=True):
    """What a pool's tokens cost. Money is in one currency, whichever it is; None is not set."""

    price_per_million_prompt_tokens: _Money | None = Field(None, description="By a price list; unset is 0.")
    price_per_million_completion_tokens: _Money | None = Field(None, description="By a price list; unset is 0.")
    price_per_gpu_hour: _Money | None = Field(
        None, description="What one GPU costs an hour; shared out among the requests, in place of a price list."
    )
    gpus_per_replica: int | None = Field(None, ge=1, le=10_000, description="GPUs of one engine; unset is 1.")
    prompt_token_weight: _Weight | None = Field(None, description="Work of a prompt's token; unset is 1.")
    completion_token_weight: _Weight | None = Field(None, description="Work of an answer's token; unset is 4.")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.price_per_gpu_hour and self._is_listed:
            raise ValueError(
                "price_per_gpu_hour and price_per_million_..._tokens are both set; a pool's tokens are paid by the "
                "engines' hours or by a price list: set one of them"
            )
        return self

    @property
    def is_by_gpu_hour(self) -> bool:
        """Whether requests share what the engines cost."""
        return bool(self.price_per_gpu_hour)

    @property
    def _is_listed(self) -> bool:
        return bool(self.price_per_million_prompt_tokens or self.price_per_million_completion_tokens)

    @property
    def prompt_weight(self) -> float:
        """Work of one token of a prompt."""
        return self.prompt_token_weight or PROMPT_TOKEN_WEIGHT

    @property
    def completion_weight(self) -> float:
        """Work of one token of an answer."""
        return self.completion_token_weight or COMPLETION_TOKEN_WEIGHT

    def weighted(self, prompt_tokens: int, completion_tokens: int) -> float:
        """The work of so many tokens, in weighted tokens."""
        return prompt_tokens * self.prompt_weight + completion_tokens * self.completion_weight

    def listed(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What so many tokens cost by the price list."""
        prompt = self.price_per_million_prompt_tokens or 0.0
        completion = self.price_per_million_completion_tokens or 0.0
        return (prompt_tokens * prompt + completion_tokens * completion) / 1e6

    def engines(self, ready_s: float) -> float:
        """What replicas cost that were ready for so many seconds in all."""
        return (self.price_per_gpu_hour or 0.0) * (self.gpus_per_replica or GPUS_PER_REPLICA) * ready_s / 3600

    def over(self, flat: "Pricing") -> "Pricing":
        """This, with what is not set here from `flat`: a pool with a price of its own takes none from there."""
        named = {name: getattr(self, name) for name in Pricing.model_fields}
        has_price = any(value is not None for name, value in named.items() if name.startswith("price_"))
        inherited = {
            name: getattr(flat, name)
            for name, value in named.items()
            if value is None and not (has_price and name.startswith("price_"))
        }
        return Pricing(**{**named, **inherited})


class PricedPool(Pricing):
    """A pool of the setting `pools`, as far as money goes."""

    base: str = Field(min_length=1)


def read_pools(value: Any) -> Any:
    """The setting `pools`; from the environment it comes as a string.

    Raises:
        ValueError: that is no JSON.
    """
    try:
        return json.loads(value or "[]") if isinstance(value, str) else value
    except ValueError:
        raise ValueError(
            'OSTLER_POOLS must be a list in JSON, such as [{"base": "NAME", "engine_url": "http://HOST:PORT"}]'
        ) from None


class PricedSettings(Pricing):
    """The settings of prices: flat ones, and those of each pool."""

    pools: Annotated[tuple[PricedPool, ...], NoDecode] = ()

    _read_json = field_validator("pools", mode="before")(read_pools)

    def pricing(self, pool: str) -> Pricing:
        """What the tokens of the pool with that base model cost."""
        flat = Pricing(**{name: getattr(self, name) for name in Pricing.model_fields})
        return next((one.over(flat) for one in self.pools if one.base == pool), flat)

    @property
    def any_by_gpu_hour(self) -> bool:
        """Whether any pool's engines are paid by the hour."""
        return any(one.is_by_gpu_hour for one in (self, *self.pools))

    def pricings(self, pools: Iterable[str]) -> dict[str, Pricing]:
        """The same for several."""
        return {pool: self.pricing(pool) for pool in pools}
