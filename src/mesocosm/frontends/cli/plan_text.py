"""An explanation as text: read by people on a terminal, by ``grep`` in a pipe.

Every line stands for itself: a step's line names its phase and the isolator it comes from.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from mesocosm.explanation import Explanation
from mesocosm.frontends.cli.colour import Paint, plain, safe
from mesocosm.frontends.cli.layout import ago, columns, count
from mesocosm.model import ImageIdentity
from mesocosm.plan import AllowDevices, HostAction, LaunchPlan
from mesocosm.plan.operations import LoadFilter, LoadFilterEarly, SetCapabilities

INDENT = "  "


def render(explanation: Explanation, paint: Paint = plain) -> str:
    """The whole explanation; sections with a title, in the order of events."""
    plan = explanation.plan
    sections = [
        ("IMAGE", _image(explanation.image)),
        *(
            (f"IMAGE MOUNTED AT {safe(target)}", _image(image))
            for target, image in explanation.volumes.items()
        ),
        ("ISOLATION", _isolation(plan, paint)),
        ("NAMESPACES", [f"made together with the first process: {', '.join(plan.namespaces) or 'none'}"]),
        ("ON THE HOST, before the first process is made", _host(plan, paint)),
        ("IN THE FIRST PROCESS, in this order", _steps(plan, paint)),
        ("SYSTEM CALL FILTER", list(_filter(plan))),
        ("COMMAND", [" ".join(_quoted(word) for word in plan.execute.arguments)]),
        ("ENVIRONMENT", [safe(entry) for entry in plan.execute.environment] or ["empty"]),
        ("WHAT WILL NOT BE HAD HERE", _refused(explanation, paint)),
    ]
    blocks = [
        "\n".join((paint(title, "title"), *(INDENT + line for line in lines))) for title, lines in sections
    ]
    return "\n\n".join(blocks)


def _image(image: ImageIdentity | None) -> list[str]:
    if image is None:
        return ["none: the host's own file system"]
    facts = [("reference", safe(image.reference))]
    for name, value in (("digest", image.digest), ("image ID", image.image_id), ("platform", image.platform)):
        if value:
            facts.append((name, safe(value)))
    if image.digest and image.checked_at is not None:
        facts.append(("checked", ago(image.checked_at, time.time())))
    if image.layers:
        facts.append(("layers", str(len(image.layers))))
    return columns(facts).splitlines()


def _isolation(plan: LaunchPlan, paint: Paint) -> list[str]:
    rows = [
        (paint(f"{part.isolator:<20}", "name"), safe("; ".join(part.notes)) or "nothing asked for")
        for part in plan.parts
        if part.isolator != "launch"
    ]
    return [f"{name} {notes}" for name, notes in rows]


def _host(plan: LaunchPlan, paint: Paint) -> list[str]:
    return _numbered([_host_step(step) for step in plan.host], paint) or ["nothing"]


def _host_step(step: HostAction) -> str:
    rules = f": {', '.join(step.rules)}" if isinstance(step, AllowDevices) else ""
    return safe(f"{step.describe()}{rules}")


def _numbered(lines: Sequence[str], paint: Paint) -> list[str]:
    wide = len(str(len(lines)))
    return [f"{paint(f'{number:>{wide}}', 'faint')}  {line}" for number, line in enumerate(lines, 1)]


def _steps(plan: LaunchPlan, paint: Paint) -> list[str]:
    phases = [step.phase.name.lower().replace("_", " ") for step in plan.steps]
    wide = max(map(len, phases))
    owner = max(map(len, plan.origins))
    lines = []
    for phase, origin, step in zip(phases, plan.origins, plan.steps, strict=True):
        told = paint(f"{phase:<{wide}}", "faint"), paint(f"{origin:<{owner}}", "name"), safe(step.describe())
        lines.append("  ".join(told))
    return _numbered(lines, paint)


def _filter(plan: LaunchPlan) -> Iterator[str]:
    filtered = False
    for step in plan.steps:
        if isinstance(step, LoadFilter | LoadFilterEarly):
            filtered = True
            instructions = len(step.program) * 3 // 4 // 8
            when = "last" if isinstance(step, LoadFilter) else "early, because no_new_privs is off"
            yield f"{step.summary}; {count(instructions, 'instruction')}, loaded {when}"
        elif isinstance(step, SetCapabilities):
            yield f"with the capabilities {_capabilities(step.bounding)}"
    if not filtered:
        yield "none: every system call that the capabilities permit"


def _capabilities(mask: int) -> str:
    from mesocosm.linux.capabilities import names  # noqa: PLC0415

    return ", ".join(name.removeprefix("CAP_").lower() for name in names(mask)) or "none"


def _refused(explanation: Explanation, paint: Paint) -> list[str]:
    if not explanation.refusals:
        return [paint("nothing is missing: this host can do all of it", "good")]
    return [
        f"{paint(refusal.isolator, 'name')}  {paint(safe(refusal.message), 'bad')}"
        for refusal in explanation.refusals
    ]


def _quoted(word: str) -> str:
    import shlex  # noqa: PLC0415

    return shlex.quote(safe(word))
