"""`millstream doctor`: checks the machine and the files, and says how to repair them."""

from collections.abc import Sequence

from millstream.app import queries
from millstream.app.connect import MEMORY, connect_store
from millstream.app.system_clock import SystemClock
from millstream.cli.checks import Finding, Verdict, machine
from millstream.cli.checks import place as files
from millstream.cli.exits import Exit
from millstream.cli.place import HERE, Place, opened
from millstream.cli.screen import PLAIN, Cell, Look, Screen, Style
from millstream.contracts.errors import MillstreamError, NotFoundError

MARKS: dict[Verdict, tuple[str, str, Style]] = {
    "ok": ("✓", "ok", "green"),
    "warning": ("▲", "!!", "yellow"),
    "failed": ("✖", "XX", "red"),
}


async def doctor(*, place: Place = HERE, look: Look = PLAIN) -> int:
    """Check this machine and the files that the settings name, and say how to repair
    what is wrong.

    It exits with 0 when all is well, with 10 when something should be looked at,
    and with 9 when something has to be repaired.

    For example:
      millstream doctor
      millstream doctor --app inventory:app --output json
    """
    screen = Screen(look)
    findings = await _findings(place)
    worst = Exit.CRITICAL if _any(findings, "failed") else Exit.WARNING if _any(findings, "warning") else Exit.OK
    if look.json:
        fields = [{"name": f.name, "verdict": f.verdict, "found": f.found, "fix": f.fix} for f in findings]
        screen.document("doctor", ok=worst == Exit.OK, checks=fields)
        return worst
    for finding in findings:
        pretty, simple, style = MARKS[finding.verdict]
        screen.row([Cell(f"{screen.mark(pretty, simple)} ", style), Cell(f"{finding.name:<12}", "bold"), Cell(finding.found)])
        if finding.fix:
            screen.row([Cell(f"{'':<14}fix: ", "dim"), Cell(finding.fix)])
    return worst


async def _findings(where: Place) -> list[Finding]:
    clock = SystemClock()
    async with connect_store(MEMORY, None, clock) as store:
        version = str((await store.read("select sqlite_version()"))[0][0])
    found = list(machine(version))
    try:
        settings, app = where.settings()
        if app is not None:
            found.append(Finding("app", "ok", f"{app.name}: {len(app.handlers())} handlers"))
    except MillstreamError as error:
        return [*found, Finding("settings", "failed", str(error), "Correct it where it stands.")]
    found += files(settings)
    try:
        async with opened(where) as target:
            groups = await queries.groups(target.broker, target.store, target.clock)
        found.append(Finding("readable", "ok", f"{len(groups)} groups"))
    except NotFoundError:
        pass  # it is made at the first start, and has been told above
    except (MillstreamError, OSError) as error:
        found.append(Finding("readable", "failed", str(error), "See the message; until then nothing can be handled."))
    return found


def _any(findings: Sequence[Finding], verdict: Verdict) -> bool:
    return any(finding.verdict == verdict for finding in findings)
