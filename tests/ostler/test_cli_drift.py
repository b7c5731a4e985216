"""`ostler drift`: looks are shown, asked for, and their reports saved."""

from pathlib import Path

from tests.gateway.test_admin_drift import look
from tests.ostler.command import MISUSED, REFUSED, Cli


async def test_looks_are_shown_with_what_drifted(two: Cli) -> None:
    """The columns with their thresholds; before the first look it is said that there was none."""
    assert "Nobody has looked yet" in (await two("drift", "support")).out
    await look(two.gateway, 0)
    shown = (await two("drift", "support")).out
    assert "prompt 0.6 / 0.3 drifted" in shown
    (found,) = (await two("drift", "support", "--json")).json["data"]
    assert (found["outcome"], found["version"]) == ("drift", 1)
    (await two("drift", "nobody")).assert_failed(REFUSED, "there is no adapter 'nobody'")


async def test_the_newest_report_is_saved(two: Cli, tmp_path: Path) -> None:
    """As a file for a browser; where there is none, or none can be written, that is one line."""
    file = tmp_path / "report.html"
    (await two("drift", "support", "--report", str(file))).assert_failed(REFUSED, "there is no report yet")
    report = two.gateway.registry.store.put_files({"report.html": b"<html>1</html>"}).digest
    await look(two.gateway, 0, report)
    await look(two.gateway, 1)
    await two("drift", "support", "--report", str(file))
    assert file.read_bytes() == b"<html>1</html>"
    (await two("drift", "support", "--report", str(tmp_path / "no" / "report"))).assert_failed(MISUSED, "written")


async def test_a_look_now_is_asked_for(two: Cli) -> None:
    """And said to come; its report cannot be had at the same time."""
    assert "as soon as it can" in (await two("drift", "support", "--now")).out
    assert (await two("drift", "support", "--now", "--json")).json["adapter"] == "support"
    (await two("drift", "support", "--now", "--report", "x")).assert_failed(MISUSED, "once the look is done")
