"""What a job is asked to do."""

import pytest

from registry.errors import InvalidValue
from registry.tuning.orders import DataOrder, Hyperparameters, LoraOrder, TuningOrder


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ("n_epochs", "method.dpo.hyperparameters.n_epochs"),
        ("beta", "method.dpo.hyperparameters.beta"),
        ("rank", "ostler.rank"),
        ("replay_from", "ostler.replay_from"),
        ("gate.retention_file", "ostler.gate.retention_file"),
        ("training_file", "training_file"),
    ],
)
def test_a_field_is_named_as_requests_have_it(field: str, param: str) -> None:
    """The one form, whoever finds it wrong, and when."""
    assert TuningOrder("a", "b", "file-1", method="dpo").param_of(field) == param


@pytest.mark.parametrize(
    ("order", "param"),
    [
        (
            TuningOrder("a", "b", "file-1", hyperparameters=Hyperparameters(beta=0.1)),
            "method.supervised.hyperparameters.beta",
        ),
        (TuningOrder("a", "b", "file-1", lora=LoraOrder(alpha=float("inf"))), "ostler.alpha"),
        (
            TuningOrder("a", "b", "file-1", data=DataOrder(holdout_share=0.5, validation_share=0.5)),
            "ostler.validation_share",
        ),
    ],
)
def test_values_that_do_not_go_together_are_refused(order: TuningOrder, param: str) -> None:
    """With the field that is wrong."""
    with pytest.raises(InvalidValue) as refused:
        order.check()
    assert refused.value.param == param
