"""``i2vae`` and ``python -m i2vae_lib``: Ctrl-C is answered from the first import on."""

import signal
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run :func:`i2vae_lib.cli.main`; returns its exit status, or 130 after a Ctrl-C."""
    came = False

    def interrupted(*signal_and_frame: object) -> None:
        nonlocal came
        came = True
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # a parent has us ignore it
        from i2vae_lib import cli

        return cli.main(arguments)
    signal.signal(signal.SIGINT, interrupted)
    try:
        from i2vae_lib import cli

        return cli.main(arguments)
    except BaseException:
        if not came:  # an import that was interrupted may fail with any error
            raise
        print("\ni2vae: interrupted", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # from here on nothing can be lost


if __name__ == "__main__":
    raise SystemExit(main())
