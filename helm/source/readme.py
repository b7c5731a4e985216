"""The chart's README: what it needs, how to install it, and every value."""

import json

from helm.source.values import Value, explained

_HEAD = """\
# Ostler's Helm chart

Gateways, engines with their agents, the monitor, tuners, migrations, monitoring and network policies. Kubernetes 1.27
or later, Helm 3.17 or 4. The page `docs/kubernetes.md` of Ostler's repository goes through an installation step by
step, and tells how to upgrade and to go back.

```
helm upgrade --install ostler ./helm --namespace ostler \\
  --values my-values.yaml --wait --timeout 45m
helm test ostler --namespace ostler
```

The least that must be said, in production:

```yaml
images: {registry: registry.example.com}     # where you pushed Ostler's images
database: {existingSecret: ostler-database}  # `url`: postgresql://USER:PASSWORD@HOST/NAME
adminKey: {existingSecret: ostler-admin}     # `api-key`, as of `openssl rand -hex 32`
agent: {existingSecret: ostler-agents}       # `token`, as of `openssl rand -hex 32`
artifacts: {url: s3://BUCKET/PREFIX}
limits: {existingSecret: ostler-limits}      # `url`: redis://..., or one gateway alone
engines:
  pools:
    - {name: main, base: qwen3-8b, model: Qwen/Qwen3-8B}
```

To try it out, everything in the cluster and on CPUs: `helm/ci/tryout.yaml` of the repository, which is no part of the
package, nor are the other value sets there.

## Values

Made from values.yaml by `python -m helm.source`. A value that does not exist, or cannot be, is refused by
values.schema.json.
"""


def readme(values: str) -> str:
    """The whole page, of the text of values.yaml."""
    sections: dict[str, list[Value]] = {}
    for value in explained(values):
        group = value.path.partition(".")[0] if "." in value.path else "General"
        sections.setdefault(group, []).append(value)
    general = sections.pop("General")
    tables = [_table(name, rows) for name, rows in {"General": general, **sections}.items()]
    return "\n".join([_HEAD, *tables])


def _table(name: str, rows: list[Value]) -> str:
    title = name if name == "General" else f"`{name}`"
    lines = [f"| `{row.path}` | {_shown(row.default)} | {row.meaning} |" for row in rows]
    return "\n".join([f"### {title}", "", "| value | default | meaning |", "| --- | --- | --- |", *lines, ""])


def _shown(default: object) -> str:
    return f"`{default if isinstance(default, str) and default else json.dumps(default)}`"
