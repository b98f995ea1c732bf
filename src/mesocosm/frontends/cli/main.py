"""The command ``mesocosm``."""

from __future__ import annotations

import importlib
import sys

import click

from mesocosm.errors import MesocosmError
from mesocosm.frontends.faults import FAILED, INTERRUPTED, status_of

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
    "kill": "Send a signal to containers",
    "stop": "Ask containers to end, then end them by force",
    "rm": "Remove ended containers",
    "pull": "Fetch an image",
    "images": "List images",
    "rmi": "Remove images",
    "explain": "Show what a run would do, without doing it",
    "doctor": "Check what this host can do, and how to fix what it cannot",
}
"""Each verb is the module of its name; nothing is imported before it is asked for."""

RUNNING = frozenset({"run", "create", "exec"})
"""Verbs whose exit status belongs to a payload: our own failures are 125."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, in the order of a container's life."""
        del ctx
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb's command; None when there is none."""
        del ctx
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"mesocosm.frontends.cli.verbs.{cmd_name}")
        command: click.Command = module.command
        command.short_help = VERBS[cmd_name]
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of verbs, without importing any of them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command meant; an unknown one is answered with the nearest."""
        if args and args[0] not in VERBS:
            import difflib

            near = difflib.get_close_matches(args[0], VERBS, n=1)
            meant = f", did you mean {near[0]}?" if near else ""
            ctx.fail(f"no command {args[0]!r}{meant}")
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--root", envvar="MESOCOSM_ROOT", metavar="DIR", help="Where images and containers are kept.")
@click.option(
    "--runtime", envvar="MESOCOSM_RUNTIME", metavar="DIR", help="Where what runs is kept, best on tmpfs."
)
@click.version_option(package_name="mesocosm", message="mesocosm %(version)s")
@click.pass_context
def cli(ctx: click.Context, root: str | None, runtime: str | None) -> None:
    """Run processes inside exactly the isolation asked for, from any kind of image."""
    ctx.obj = (root, runtime)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; answers the exit status.  Every failure is one line on standard error."""
    arguments = sys.argv[1:] if arguments is None else arguments
    running = any(word in RUNNING for word in arguments[:5])
    try:
        result = cli.main(args=arguments, prog_name="mesocosm", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except MesocosmError as error:
        click.echo(f"mesocosm: {error}", err=True)
        return status_of(error, running=running)
    except click.ClickException as error:
        error.show()
        return FAILED if running else 2
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        return INTERRUPTED
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        click.echo(f"mesocosm: {error.strerror or error}{where}", err=True)
        return FAILED if running else 1


if __name__ == "__main__":
    sys.exit(main())
