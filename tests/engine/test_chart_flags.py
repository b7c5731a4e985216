"""The real vLLM takes the arguments that the chart starts it with, and knows the variables."""

import json
import os
import subprocess
import sys

import pytest

from tests.helm.chart import VALUE_SETS, rendered

pytestmark = pytest.mark.engine

# vLLM's own parser, in a process of its own: importing vLLM takes long and changes the process.
PARSE = """
import json, sys
from vllm import envs
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = make_arg_parser(FlexibleArgumentParser())
started = json.load(sys.stdin)
parsed = [vars(parser.parse_args(each["args"])) for each in started]
names = {name for each in started for name in each["env"] if name.startswith("VLLM_")}
json.dump({
    "parsed": [{name: each[name] for name in ("model", "served_model_name", "max_loras", "middleware", "host", "port")}
               for each in parsed],
    "unknown": sorted(names - set(envs.environment_variables)),
}, sys.stdout)
"""


def test_vllm_takes_what_the_chart_starts_it_with() -> None:
    """Of every pool of every value set, by vLLM's own parser; its port is the one that Services lead to."""
    engines = [
        {"args": container["args"], "env": [each["name"] for each in container["env"]]}
        for value_set in VALUE_SETS
        for pods in rendered(value_set).workloads
        for container in pods.containers
        if container["name"] == "engine"
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    ran = subprocess.run(
        [sys.executable, "-c", PARSE],
        input=json.dumps(engines),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = json.loads(ran.stdout[ran.stdout.index('{"parsed"') :])
    assert found["unknown"] == []
    assert len(found["parsed"]) == len(engines) > 6
    for parsed in found["parsed"]:
        assert parsed["port"] == 8000
        assert parsed["host"] in {"0.0.0.0", "::"}
        assert parsed["model"]
        assert parsed["max_loras"] > 1
