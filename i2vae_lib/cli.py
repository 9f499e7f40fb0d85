"""The command ``i2vae``. Its commands stand in :mod:`i2vae_lib.commands.table`."""

import argparse
import errno
import io
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from i2vae_lib.commands.table import COMMANDS
from i2vae_lib.lazy import MissingLibrary
from i2vae_lib.places import brief, suggestion


class _Parser(argparse.ArgumentParser):
    """Whose errors are brief too: what was given may be of any length."""

    def error(self, message: str) -> NoReturn:
        super().error(brief(message))


class _Version(argparse.Action):
    """Looks the version up when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *words: Any) -> None:
        from importlib.metadata import version

        print(f"i2vae-kit {version('i2vae-kit')}")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """The parser of :data:`COMMANDS`; what it returns names ``command``, its ``parser`` and the ``whole``."""
    parser = _Parser(prog="i2vae", description="Research kit for i2VAE (UAI 2025).")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and end")
    listed = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        epilog = "examples:\n" + "\n".join(f"  {example}" for example in command.examples)
        one = listed.add_parser(
            name,
            help=command.help,
            description=command.help,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        one.set_defaults(parser=one, whole=parser)
        for flag, words in command.options:
            one.add_argument(flag, **words)
    return parser


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """What was given; a wrong command or option ends with status 2 and the nearest right one."""
    parser = build_parser()
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        parser.error(f"unknown command '{arguments[0]}'{suggestion(arguments[0], list(COMMANDS))}")
    given, unknown = parser.parse_known_args(arguments)
    if unknown:
        flags = [flag for flag, _ in COMMANDS[given.command].options if flag.startswith("-")]
        nearest = suggestion(unknown[0], flags) if unknown[0].startswith("-") else ""
        given.parser.error(f"unrecognized arguments: {' '.join(unknown)}{nearest}")
    return given


_REMEDIES = {  # what would be right, where the system says no more than what is wrong
    errno.ENOENT: "name one that is there",
    errno.EACCES: "you have no right to it: change that, or name another",
    errno.EPERM: "you have no right to it: change that, or name another",
    errno.EISDIR: "name a file",
    errno.ENOTDIR: "a part of the path is a file: name a folder",
    errno.EEXIST: "name another",
    errno.ENOTEMPTY: "name another",
    errno.ENAMETOOLONG: "name a shorter one",
    errno.EROFS: "nothing can be written there: name another folder",
    errno.ENOSPC: "make room, and the same command goes on",
    errno.EDQUOT: "make room, and the same command goes on",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


def _in_words(error: Exception) -> str:
    """A brief message of an error; of the system's own, ``[Errno 2] …``, the path first and what would be right."""
    if not isinstance(error, OSError) or error.errno is None or not error.strerror:
        return brief(str(error))
    where = f"{error.filename}: " if error.filename is not None else ""
    remedy = _REMEDIES.get(error.errno)
    return brief(f"{where}{error.strerror.lower()}" + (f": {remedy}" if remedy else ""))


def _too_large(command: str, error: Exception) -> int:
    said = (str(error).splitlines() or [""])[0]
    print(
        f"i2vae {command}: this takes more memory than there is{f' ({said})' if said else ''}: lower model.d, model.T, "
        f"psg.d, a batch_size or the data, and the same command goes on",
        file=sys.stderr,
    )
    return 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status (0 well, 1 a leak or runs that failed, 2 bad input, 141 nobody reads on)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that a terminal cannot show is no reason to stop
            stream.reconfigure(errors="backslashreplace" if stream is sys.stderr else "replace")
    given = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        status = COMMANDS[given.command].run(given)
        print(end="", flush=True)
        return status
    except BrokenPipeError:  # its reader has seen enough, as `head` does; what is left goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as a shell says of whom SIGPIPE ended
    except (OSError, ValueError, MissingLibrary) as error:  # ParameterError, DataError, LayoutError among them
        print(f"i2vae {given.command}: {_in_words(error)}", file=sys.stderr)
        return 2
    except MemoryError as error:
        return _too_large(given.command, error)
    except (ArithmeticError, RuntimeError) as error:
        from i2vae_lib.audit.leaks import Leak
        from i2vae_lib.evaluation import NonFiniteScore
        from i2vae_lib.training import NonFiniteLoss

        if "allocate" in str(error) or "out of memory" in str(error):  # torch's way of saying it
            return _too_large(given.command, error)
        if not isinstance(error, (Leak, NonFiniteLoss, NonFiniteScore)):
            raise
        print(f"i2vae {given.command}: {_in_words(error)}", file=sys.stderr)
        return 1 if isinstance(error, Leak) else 2
    except KeyboardInterrupt:
        print(f"\ni2vae {given.command}: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
