"""Changes of files and jobs that clients ask for: numbered and audited, as those of the registry's own tables are."""

from contextlib import AbstractAsyncContextManager

from registry.transactions import Change, Transactions


class Changes(Transactions):
    """Transactions one after another, over all processes."""

    def change(self, actor: str) -> AbstractAsyncContextManager[Change]:
        """Begin one; what was not audited in it is not kept."""
        return self._change(actor)
