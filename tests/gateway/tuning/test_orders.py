"""What a request for a job comes to: the model that it starts from, its options, and what is refused."""

from typing import Any

import msgspec
import pytest

from gateway.tuning.bodies import NewJob
from gateway.tuning.orders import order_for
from registry.catalog import ApiKey, KeyLimits, Scope
from registry.registry import Registry
from registry.tuning.files import Files, NewFile
from registry.tuning.orders import (
    DataOrder,
    GateOrder,
    Hyperparameters,
    LoraOrder,
    StoppingOrder,
    TuningOrder,
)
from tests.conftest import AdapterMaker, RunningGateway
from tests.gateway.answers import error_of, new_key
from tests.gateway.tuning.asking import create, created, sent


@pytest.fixture
async def deployed(two: RunningGateway) -> RunningGateway:
    """`support` with version 1 live and version 2; `fresh` with a version that nothing serves, and an archived one."""
    await two.push("fresh", 3.0)
    await two.push("fresh", 4.0)
    response = await two.http.patch("/admin/v1/adapters/fresh/versions/2", json={"archived": True})
    assert response.is_success
    return two


Ours = dict[str, Any]
STARTS: list[tuple[str, Ours, tuple[str, int | None]]] = [
    ("tiny", {"adapter": "billing"}, ("billing", None)),
    ("tiny", {"adapter": "support"}, ("support", None)),
    ("tiny", {"adapter": "support", "start_from": 2}, ("support", 2)),
    ("support", {}, ("support", 1)),
    ("support", {"adapter": "support"}, ("support", 1)),
    ("support", {"start_from": 2}, ("support", 2)),
    ("support@2", {}, ("support", 2)),
    ("support@2", {"start_from": 2}, ("support", 2)),
    ("fresh@1", {}, ("fresh", 1)),
    ("fresh", {"start_from": 1}, ("fresh", 1)),
]


async def test_a_model_says_where_training_starts(deployed: RunningGateway) -> None:
    """A base model is a new LoRA, an adapter its stable version, a pinned name that version."""
    for model, ours, expected in STARTS:
        job = await created(deployed, {"model": model, "ostler": ours})
        assert (job["ostler"]["adapter"], job["ostler"]["start_from"]) == expected, (model, ours)
        assert (job["model"], job["ostler"]["base"]) == (model, "tiny")


async def test_an_engine_name_is_a_version_too(deployed: RunningGateway) -> None:
    """As it is for chats."""
    version = (await deployed.http.get("/admin/v1/adapters/support")).json()["versions"][1]
    job = await created(deployed, {"model": version["engine_name"], "ostler": {}})
    assert (job["ostler"]["adapter"], job["ostler"]["start_from"]) == ("support", 2)


async def test_a_suffix_can_name_the_adapter(gateway: RunningGateway) -> None:
    """As in OpenAI's own requests, which know no adapters; beside one, it is a note alone."""
    job = await created(gateway, {"suffix": "billing-2", "ostler": {}})
    assert (job["ostler"]["adapter"], job["ostler"]["suffix"]) == ("billing-2", "billing-2")
    job = await created(gateway, {"suffix": "A note!", "ostler": {"adapter": "billing"}})
    assert (job["ostler"]["adapter"], job["ostler"]["suffix"]) == ("billing", "A note!")


UNKNOWN = ["nobody", "support@9", "fresh@2", "support@1-00000000", "gpt-4o-mini-2024-07-18", "a b", "Support"]


async def test_a_model_that_is_not_there_cannot_be_trained(deployed: RunningGateway) -> None:
    """The same 404 as anywhere, which names what there is."""
    for model in UNKNOWN:
        response = await create(deployed, {"model": model})
        error = error_of(response)
        assert (response.status_code, error["code"], error["param"]) == (404, "model_not_found", "model"), model
        assert "support, tiny" in error["message"]


WRONG_STARTS: list[tuple[dict[str, Any], str, str]] = [
    ({"model": "tiny"}, "ostler.adapter", "whose version"),
    ({"model": "tiny", "suffix": "Not A Name"}, "ostler.adapter", "whose version"),
    ({"model": "tiny", "ostler": {"adapter": "tiny"}}, "ostler.adapter", "base model"),
    ({"model": "tiny", "ostler": {"adapter": "UPPER"}}, "ostler.adapter", "must be a text that matches"),
    ({"model": "tiny", "ostler": {"adapter": "support", "start_from": 9}}, "ostler.start_from", "no version 9"),
    ({"model": "tiny", "ostler": {"adapter": "nobody", "start_from": 1}}, "ostler.start_from", "no version 1"),
    ({"model": "tiny", "ostler": {"adapter": "fresh", "start_from": 2}}, "ostler.start_from", "archived"),
    ({"model": "fresh", "ostler": {"start_from": 2}}, "ostler.start_from", "archived"),
    ({"model": "fresh"}, "model", "no version in service"),
    ({"model": "support", "ostler": {"adapter": "billing"}}, "ostler.adapter", "billing"),
    ({"model": "support@2", "ostler": {"start_from": 1}}, "ostler.start_from", "version 2"),
    ({"model": "support", "ostler": {"replay_from": 9}}, "ostler.replay_from", "no version 9"),
    ({"model": "tiny", "ostler": {"adapter": "nobody", "replay_from": 1}}, "ostler.replay_from", "no version 1"),
]


async def test_a_start_that_makes_no_sense_is_refused(deployed: RunningGateway) -> None:
    """With the field that is wrong, and what would be right."""
    for body, param, words in WRONG_STARTS:
        await assert_refused(deployed, body, param, words)


async def assert_refused(gateway: RunningGateway, body: dict[str, Any], param: str | None, words: str) -> None:
    """400, not to be sent again, and no job."""
    response = await create(gateway, body)
    error = error_of(response)
    assert (response.status_code, error["param"]) == (400, param), (body, error)
    assert words in error["message"], (body, error)
    assert response.headers["x-should-retry"] == "false"
    assert (await gateway.http.get("/v1/fine_tuning/jobs")).json()["data"] == []


def ours(**fields: Any) -> dict[str, Any]:
    """A body that is right but for these fields under `ostler`."""
    return {"ostler": {"adapter": "support", **fields}}


def supervised(**fields: Any) -> dict[str, Any]:
    """A body that is right but for these hyperparameters."""
    return ours() | {"method": {"type": "supervised", "supervised": {"hyperparameters": fields}}}


REINFORCEMENT = {"type": "reinforcement", "reinforcement": {"grader": {}}}
WRONG: list[tuple[dict[str, Any], str | None, str]] = [
    (ours() | {"model": 7}, "model", "must be a text"),
    (ours() | {"model": ""}, "model", "1 to 255 characters"),
    (ours() | {"n_epochs": 3}, "n_epochs", "no field `n_epochs`"),
    (ours() | {"suffix": ""}, "suffix", "1 to 64"),
    (ours() | {"suffix": "s" * 65}, "suffix", "1 to 64"),
    (ours() | {"suffix": "a\0b"}, "suffix", "without the character NUL"),
    (ours() | {"seed": -1}, "seed", "from 0 to 2147483647"),
    (ours() | {"seed": 2**31}, "seed", "from 0 to 2147483647"),
    (ours() | {"seed": "7"}, "seed", "a whole number"),
    (ours() | {"metadata": {str(number): "" for number in range(17)}}, "metadata", "at most 16 fields"),
    (ours() | {"metadata": {"k" * 65: ""}}, "metadata", "1 to 64 characters"),
    (ours() | {"metadata": {"k": "v" * 513}}, "metadata[...]", "at most 512 characters"),
    (ours() | {"metadata": {"k": 1}}, "metadata[...]", "a text"),
    (ours() | {"integrations": [{"type": "wandb", "wandb": {"project": "x"}}]}, "integrations", "0 items"),
    (ours() | {"method": REINFORCEMENT}, "method.type", "there are 'supervised' and 'dpo'"),
    (ours() | {"method": {"type": "lora"}}, "method.type", "'supervised'"),
    (ours() | {"method": {"type": "supervised", "dpo": {}}}, "method.dpo", "supervised"),
    (ours() | {"method": {"type": "dpo", "supervised": {}}}, "method.supervised", "dpo"),
    (supervised(n_epochs=0), "method.supervised.hyperparameters.n_epochs", "from 1 to 50"),
    (supervised(n_epochs="many"), "method.supervised.hyperparameters.n_epochs", "'auto' or a whole number"),
    (supervised(learning_rate_multiplier=0), "method.supervised.hyperparameters.learning_rate_multiplier", "above 0"),
    (supervised(batch_size=2.5), "method.supervised.hyperparameters.batch_size", "a whole number"),
    (supervised(epochs=3), "method.supervised.hyperparameters.epochs", "there is no field"),
    (supervised(beta=0.2), "method.supervised.hyperparameters.beta", "dpo alone"),
    (supervised(n_epochs=2) | {"hyperparameters": {"n_epochs": 3}}, "hyperparameters", "deprecated"),
    (ours(rnak=8), "ostler.rnak", "there is no field"),
    (ours(rank=0), "ostler.rank", "from 1 to 512"),
    (ours(rank=17), "ostler.rank", "take 16 at most"),
    (ours(alpha=0), "ostler.alpha", "above 0"),
    (ours(targets=[]), "ostler.targets", "1 to 50 items"),
    (ours(targets="some"), "ostler.targets", "'all-linear' or a list"),
    (ours(quantization="int4"), "ostler.quantization", "'int8', 'nf4' or 'none'"),
    (ours(bad_rows_share=2), "ostler.bad_rows_share", "from 0 to 1"),
    (ours(holdout_share=0), "ostler.holdout_share", "from 0.01 to 0.5"),
    (ours(validation_share=0.5, holdout_share=0.4), "ostler.validation_share", "less than a fifth"),
    (ours(near_duplicates=0.2), "ostler.near_duplicates", "from 0.5 to 1"),
    (ours(personal_data="sell"), "ostler.personal_data", "'keep' or 'replace'"),
    (ours(stopping={"patience": -1}), "ostler.stopping.patience", "from 0 to 100"),
    (ours(stopping={"never": True}), "ostler.stopping.never", "there is no field"),
    (ours(gate={"margin": 1}), "ostler.gate.margin", "there is no field"),
    (ours(gate={"rows": 1}), "ostler.gate.rows", "from 10 to 10000"),
    (ours(gate={"scorers": [{"scorer": "vibes"}]}), "ostler.gate.scorers", "there is no scorer 'vibes'"),
    (ours(gate={"scorers": [{"scorer": "label", "options": {"x": 1}}]}), "ostler.gate.scorers", "label"),
    (ours(gate={"scorers": [{"scorer": "label"}] * 2}), "ostler.gate.scorers", "chosen once"),
    (ours(gate={"scorers": []}), "ostler.gate.scorers", "1 to 10 items"),
    (ours() | {"training_file": "file-0"}, "training_file", "no file 'file-0'"),
    (ours() | {"training_file": "a\0b"}, "training_file", "without the character NUL"),
    (ours() | {"validation_file": "file-0"}, "validation_file", "no file 'file-0'"),
    (ours(gate={"retention_file": "a\0b"}), "ostler.gate.retention_file", "no file"),
    (ours(gate={"refusal_file": "file-0"}), "ostler.gate.refusal_file", "no file"),
]


async def test_a_wrong_field_is_named(gateway: RunningGateway) -> None:
    """With what is wrong about it; nothing is queued."""
    file_id = await sent(gateway)
    for body, param, words in WRONG:
        await assert_refused(gateway, {"training_file": file_id} | body, param, words)


async def test_a_missing_field_is_named(gateway: RunningGateway) -> None:
    """These two there must be."""
    for body, missing in (({"training_file": "file-0"}, "model"), ({"model": "tiny"}, "training_file")):
        response = await gateway.http.post("/v1/fine_tuning/jobs", json=body)
        assert (response.status_code, error_of(response)["param"]) == (400, missing)


async def test_files_must_be_sent_for_what_they_are_used_for(gateway: RunningGateway) -> None:
    """Training and validation take `fine-tune`, the gate's sets `evals`; and one file is not both."""
    data, sets = await sent(gateway), await sent(gateway, "evals")
    await assert_refused(gateway, ours() | {"training_file": sets}, "training_file", "'evals'; it must be 'fine-tune'")
    await assert_refused(gateway, ours() | {"validation_file": sets}, "validation_file", "must be 'fine-tune'")
    for name in ("retention_file", "refusal_file"):
        await assert_refused(gateway, ours(gate={name: data}), f"ostler.gate.{name}", "must be 'evals'")
    same = ours() | {"training_file": data, "validation_file": data}
    await assert_refused(gateway, same, "validation_file", "other rows")
    right = ours(gate={"retention_file": sets, "refusal_file": sets}) | {"validation_file": await sent(gateway)}
    assert (await created(gateway, right))["training_file"] != data


async def test_what_goes_on_keeps_its_shape(two: RunningGateway) -> None:
    """A version's rank and alpha cannot change; a new LoRA may have any."""
    version = (await two.http.get("/admin/v1/adapters/support")).json()["versions"][0]
    for name, wrong in (("rank", 3), ("alpha", 1.5)):
        right = version[name]
        await assert_refused(two, {"model": "support", "ostler": {name: wrong}}, f"ostler.{name}", f"{name} {right:g}")
    await created(two, {"model": "support", "ostler": {"rank": version["rank"], "alpha": version["alpha"]}})
    await created(two, {"model": "tiny", "ostler": {"adapter": "support", "rank": 3, "alpha": 1.5}})


async def test_a_bound_key_has_its_own_adapters_alone(deployed: RunningGateway) -> None:
    """Another adapter, whether it is there or not, is none for it; nor is a base model that it may not use."""
    secret, _ = await new_key(deployed, scopes=["tuning"], adapters=["support", "tiny"])
    told = []
    for name in ("fresh", "never"):
        for body in ({"model": name}, {"model": f"{name}@1"}, {"model": "tiny", "ostler": {"adapter": name}}):
            response = await create(deployed, body, secret)
            assert response.status_code == 404, response.text
            told.append(response.text.replace(name, "NAME"))
    assert told[:3] == told[3:]
    await created(deployed, {"model": "support", "ostler": {}}, secret)
    await created(deployed, {"model": "tiny"}, secret)
    without_base, _ = await new_key(deployed, scopes=["tuning"], adapters=["support"])
    response = await create(deployed, ours(), without_base)
    assert (response.status_code, error_of(response)["code"]) == (404, "model_not_found")


async def test_a_bound_key_cannot_use_anothers_file(two: RunningGateway) -> None:
    """It answers as one that never was; a key that sees all may."""
    secret, _ = await new_key(two, scopes=["tuning"], adapters=["support", "tiny"])
    told = []
    for file_id in (await sent(two), "file-000000000000000000000000"):
        response = await create(two, ours() | {"training_file": file_id}, secret)
        assert response.status_code == 400
        told.append(response.text.replace(file_id, "FILE"))
    assert told[0] == told[1]
    theirs = await sent(two, secret=secret)
    assert (await create(two, ours() | {"training_file": theirs}, secret)).status_code == 200
    assert (await create(two, ours() | {"training_file": theirs})).status_code == 200


KEY = ApiKey(
    id="key_1",
    name="k",
    hint="",
    scopes=frozenset({Scope.TUNING}),
    adapters=None,
    limits=KeyLimits(),
    created_by="",
    created_at=None,  # type: ignore[arg-type]  # nobody asks
)


class TestOrders:
    """The order itself."""

    @pytest.fixture
    async def files(self, registry: Registry) -> Files:
        """No files."""
        return Files(registry._sessions.kw["bind"], registry.store)

    async def order(self, registry: Registry, files: Files, **body: Any) -> TuningOrder:
        """What a body comes to, with a file that is there."""
        file = await files.keep(NewFile("a.jsonl", "fine-tune"), b"{}", key_id="key_1")
        full = {"model": "tiny", "training_file": file.id, "ostler": {"adapter": "support"}} | body
        asked = msgspec.convert(full, NewJob)
        return await order_for(asked, KEY, await registry.catalog(), registry.bases, files)

    async def test_what_is_left_out_is_as_the_orders_defaults_have_it(self, registry: Registry, files: Files) -> None:
        """The body's own defaults are those, one for one."""
        order = await self.order(registry, files, seed=7)
        assert order == TuningOrder("support", "tiny", order.training_file, seed=7)

    async def test_what_is_said_is_what_is_ordered(
        self, registry: Registry, files: Files, adapter_folder: AdapterMaker
    ) -> None:
        """Every field, in its place."""
        await registry.push("support", adapter_folder(1.0), actor="ann")
        said = {
            "rank": 8,
            "alpha": 12.0,
            "targets": ["q_proj", "v_proj"],
            "rslora": True,
            "quantization": "nf4",
        }
        data = {
            "bad_rows_share": 0.2,
            "near_duplicates": None,
            "personal_data": "keep",
            "validation_share": 0.2,
            "holdout_share": 0.3,
            "replay_share": 0.5,
            "replay_from": 1,
            "longest": 128,
        }
        stopping = {"patience": 1, "least_change": 0.5, "checkpoints": 2}
        gate = {"scorers": [{"scorer": "label", "options": {"field": "intent"}}], "least_gain": 0.01, "rows": 50}
        order = await self.order(
            registry,
            files,
            method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2, "n_epochs": 2, "batch_size": "auto"}}},
            suffix="a note",
            metadata={"k": "v"},
            ostler={"adapter": "support", "reason": "why", **said, **data, "stopping": stopping, "gate": gate},
        )
        assert order.method == "dpo"
        assert order.hyperparameters == Hyperparameters(n_epochs=2, beta=0.2)
        assert order.lora == msgspec.convert(said, LoraOrder)
        assert order.data == msgspec.convert(data, DataOrder)
        assert order.stopping == msgspec.convert(stopping, StoppingOrder)
        assert order.gate == msgspec.convert(gate, GateOrder)
        assert (order.note, order.metadata, order.reason) == ("a note", {"k": "v"}, "why")

    async def test_hyperparameters_may_stand_in_their_old_place(self, registry: Registry, files: Files) -> None:
        """Alone, or as those of the method say, too."""
        old = {"n_epochs": 4, "learning_rate_multiplier": 2}
        wanted = Hyperparameters(n_epochs=4, learning_rate_multiplier=2.0)
        blocks: list[dict[str, Any]] = [
            {},
            {"method": {"type": "supervised"}},
            {"method": {"type": "supervised", "supervised": {}}},
            {"method": {"type": "supervised", "supervised": {"hyperparameters": old}}},
            {"method": {"type": "dpo"}},
        ]
        for block in blocks:
            assert (await self.order(registry, files, hyperparameters=old, **block)).hyperparameters == wanted

    async def test_nulls_say_nothing(self, registry: Registry, files: Files) -> None:
        """As the SDK sends them for what was passed as None."""
        nulls = dict.fromkeys(("validation_file", "method", "hyperparameters", "suffix", "metadata", "integrations"))
        order = await self.order(registry, files, seed=3, **nulls)
        assert order == TuningOrder("support", "tiny", order.training_file, seed=3)
        await self.order(registry, files, integrations=[])

    async def test_a_seed_is_drawn_where_none_is_given(self, registry: Registry, files: Files) -> None:
        """Another each time, and one that every library takes."""
        seeds = {(await self.order(registry, files, seed=None)).seed for _ in range(5)}
        assert len(seeds) == 5
        assert all(0 <= seed < 2**31 for seed in seeds)
