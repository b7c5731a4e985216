"""How many tokens a conversation may have, so that nothing is trained on, or asked, that the engine cannot take."""

from registry.base_model import read_config
from tuner.settings import TunerSettings


def context_of(settings: TunerSettings) -> int:
    """How many tokens the engine takes: what it was told, else what the base model can; 0 where nobody knows."""
    config = read_config(settings.base_model) or {}
    longest = config.get("max_position_embeddings", 0)
    return settings.max_model_len or (longest if isinstance(longest, int) else 0)
