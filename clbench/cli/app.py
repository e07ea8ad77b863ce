"""Read a command line, call the command that it names, and tell in one line what is wrong with it."""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from clbench.cli import terminal
from clbench.cli.commands import COMMANDS
from clbench.cli.parameters import Option, UsageError
from clbench.cli.ranks import one_voice, refuse_one_process_commands
from clbench.cli.stopping import STOPPED, stoppable
from clbench.errors import UserError
from clbench.outside.visible import shell_word
from clbench.version import __version__

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
DEBUG = "--debug"
# What a file system may refuse through no fault of the program.
REFUSALS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EIO, errno.ENXIO, errno.EMFILE, errno.ENFILE, errno.EBADF),
)
LONG_WORD = r"\S{400,}"  # of an error; paths are mostly shorter


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; what the user can mend is told in one line."""
    # Threads that wait for each other spin less: as fast on a quiet machine, a third faster on a busy one.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    terminal.prepare()
    words = list(sys.argv[1:] if arguments is None else arguments)
    is_debug = DEBUG in words  # in any place, also behind a command: it is typed when something has failed
    words = [word for word in words if word != DEBUG]
    if any("\0" in word for word in words):
        return _failed("a word of the command line holds a NUL byte")
    with one_voice(), stoppable() as heard:
        status = _done(words, is_debug=is_debug)
        return heard.status() if status == STOPPED else status


def _done(words: Sequence[str], *, is_debug: bool) -> int:
    """Call the command and return its exit status."""
    try:
        refuse_one_process_commands(words)
        status = app(words, prog_name="clbench", standalone_mode=False, obj=_command(words))
        sys.stdout.flush()
    except UserError as error:
        if is_debug:
            traceback.print_exc()
        return _failed(str(error))
    except UsageError as error:
        asked = error.ctx.command_path if error.ctx else "clbench"
        return _failed(f"{error.format_message()} (see: {asked} --help)")
    except typer.Abort:  # older typers say so of Ctrl-C; the others give the status
        return STOPPED
    except BrokenPipeError:  # the reader of a pipe has gone
        terminal.forget_lost_output()
        return 1
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        terminal.forget_lost_output()
        return _failed(f"{error.filename or 'while writing'}: {error.strerror}")
    return status or 0


@app.callback(invoke_without_command=True)
def clbench(
    context: typer.Context,
    version: Annotated[bool, Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, Option(DEBUG, help="Of any command: print the traceback of an error.")] = False,
) -> None:
    """Continual learning with parameter-efficient modules: run, compare, and trust the numbers."""
    if version:
        print(f"clbench {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


for name, command in COMMANDS.items():
    app.command(name)(command)


def _command(words: Sequence[str]) -> str:
    return " ".join(map(shell_word, ["clbench", *words]))


def _failed(message: str) -> int:
    short = re.sub(LONG_WORD, lambda word: f"{word[0][:200]}...{word[0][-50:]}", message)
    terminal.say(f"error: {short}")
    return 2
