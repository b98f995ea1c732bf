"""The verbs, each the module of its name; nothing is imported before it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

from mesocosm.frontends.cli.settings import Settings
from mesocosm.version import VERSION

COMPLETION = "_MESOCOSM_COMPLETE"

VERBS = {
    "run": "Create and start a container, and show its output",
    "create": "Set a container up and hold it before its first instruction",
    "start": "Start created containers",
    "exec": "Run a further command inside a running container",
    "ps": "List containers",
    "logs": "Show what a container wrote",
    "wait": "Wait until containers end, and print their exit statuses",
    "inspect": "Show everything known of containers",
    "stats": "Show what containers use",
    "update": "Change the limits of running containers",
    "diff": "Show what a container has changed in its root",
    "commit": "Make an image of what a container has changed",
    "export": "Write a container's whole root to a tar file",
    "kill": "Send a signal to containers",
    "stop": "Ask containers to end, then end them by force",
    "rm": "Remove ended containers",
    "image": "Everything about images: ls pull push inspect history tag rm prune save load …",
    "pull": "Fetch images",
    "push": "Send an image to a registry",
    "images": "List images",
    "history": "Show how an image was made",
    "tag": "Give an image one more name",
    "rmi": "Remove images",
    "save": "Write images to an archive",
    "load": "Read images from an archive",
    "import": "Make an image of a tarball",
    "login": "Keep credentials for a registry",
    "logout": "Forget them",
    "explain": "Show what a run would do, without doing it",
    "doctor": "Check what this host can do, and how to fix what it cannot",
}
"""The verbs in the order of a container's life, then images, then advice."""

SHORT = {
    "pull": "image.pull",
    "push": "image.push",
    "images": "image.ls",
    "history": "image.history",
    "tag": "image.tag",
    "rmi": "image.rm",
    "save": "image.save",
    "load": "image.load",
    "import": "image.import_",
}
"""docker's short forms, and the module below ``verbs`` that each stands for."""

RUNNING = frozenset({"run", "create", "exec"})
"""Verbs whose exit status belongs to a payload: our own failures are 125."""

SYNONYMS = {
    "list": "ps",
    "ls": "ps",
    "remove": "rm",
    "delete": "rm",
    "del": "rm",
    "top": "stats",
    "check": "doctor",
    "plan": "explain",
    "log": "logs",
    "attach": "logs",
    "terminate": "stop",
    "signal": "kill",
    "state": "inspect",
    "fetch": "pull",
}
"""What people who come from elsewhere type; answered with the verb, never run in its place."""

_EPILOG = """\b
Examples:
  mesocosm run host echo hello             the host's own root, copy-on-write
  mesocosm run -m 256m --cpus 1.5 debian   an image from a registry, with limits
  mesocosm explain debian                  what that would do, step by step
  mesocosm doctor                          whether this host can do it

\b
Completion by the Tab key, containers and images too, for bash (zsh and fish alike):
  eval "$(_MESOCOSM_COMPLETE=bash_source mesocosm)"
"""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for.

    ``verbs`` says what each does, ``modules`` which module below ``package`` a verb has, where that is not
    the one of its name.
    """

    def __init__(
        self,
        *args: Any,  # noqa: ANN401  (click's own)
        verbs: Mapping[str, str] = VERBS,
        modules: Mapping[str, str] = SHORT,
        package: str = "mesocosm.frontends.cli.verbs",
        **attributes: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(*args, **attributes)
        self._verbs = verbs
        self._modules = modules
        self._package = package

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, in their order."""
        del ctx
        return list(self._verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb's command; None when there is none."""
        del ctx
        if cmd_name not in self._verbs:
            return None
        module = importlib.import_module(f"{self._package}.{self._modules.get(cmd_name, cmd_name)}")
        command: click.Command = module.command
        command.short_help = self._verbs[cmd_name]
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of verbs, without importing any of them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(self._verbs.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command meant; an unknown one is answered with the nearest."""
        if args and args[0] not in self._verbs and not ctx.resilient_parsing:
            meant = nearest_verb(args[0], self._verbs)
            ctx.fail(f"no command {args[0]!r}{f', did you mean {meant}?' if meant else ''}")
        if args and isinstance(ctx.obj, Settings) and not ctx.obj.verb:
            ctx.obj.verb = args[0]
        return super().resolve_command(ctx, args)


def nearest_verb(word: str, verbs: Mapping[str, str] = VERBS) -> str | None:
    """The verb that a mistyped or foreign word most likely stands for."""
    if SYNONYMS.get(word) in verbs:
        return SYNONYMS[word]
    import difflib  # noqa: PLC0415

    near = difflib.get_close_matches(word, verbs, n=1)
    return near[0] if near else None


def _version(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    del param
    if not wanted or ctx.resilient_parsing:
        return
    click.echo(f"mesocosm {VERSION}")
    ctx.exit()


def _debug(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    """Known before any verb is imported, which may already fail."""
    del param
    ctx.ensure_object(Settings).debug = wanted


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EPILOG,
)
@click.option("--root", envvar="MESOCOSM_ROOT", metavar="DIR", help="Where images and containers are kept.")
@click.option(
    "--runtime", envvar="MESOCOSM_RUNTIME", metavar="DIR", help="Where what runs is kept, best on tmpfs."
)
@click.option(
    "--debug",
    envvar="MESOCOSM_DEBUG",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_debug,
    help="With a failure, show where it arose.",
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show the version."
)
@click.pass_context
def cli(ctx: click.Context, root: str | None, runtime: str | None) -> None:
    """Run processes inside exactly the isolation asked for, from any kind of image."""
    settings = ctx.ensure_object(Settings)
    settings.root, settings.runtime = root, runtime
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
