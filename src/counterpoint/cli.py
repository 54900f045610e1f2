"""The command line: verbs only. Each verb is one call into the library, imported when the verb is used."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches

from counterpoint.command.verb import Verb

__all__ = ["VERBS", "main"]

VERBS = {
    "systems": Verb(
        "counterpoint.system:list_systems", "list the systems: one a paper", show="show_systems", json=True
    ),
    "train": Verb(
        "counterpoint.training.train:train",
        "train a system on your data and leave a run directory",
        places=("system", "data"),
        many="data",
        system=True,
        training=True,
        show="show_run",
    ),
    "fit": Verb(
        "counterpoint.training.fit:fit",
        "fit a training-free classifier on the features of a model",
        places=("estimator", "data"),
        many="data",
        system=True,
        show="show_run",
    ),
    "evaluate": Verb(
        "counterpoint.evaluation.evaluate:evaluate",
        "score a model with every protocol that the data allow",
        places=("model", "data"),
        show="show_scores",
        json=True,
    ),
    "embed": Verb(
        "counterpoint.index.table:embed",
        "embed your data into a table that can be searched",
        places=("model", "data"),
        show="show_table",
    ),
    "search": Verb(
        "counterpoint.index.search:search",
        "search a table by words or by picture",
        places=("table", "query"),
        show="show_answers",
        json=True,
    ),
    "predict": Verb(
        "counterpoint.predict.predict:predict",
        "apply what a system can do to your data",
        places=("model", "data"),
        show="show_predictions",
        json=True,
    ),
    "report": Verb(
        "counterpoint.reporting.report:report",
        "write report.html: curves, health, scores, pictures",
        places=("run",),
        show="show_report",
    ),
    "doctor": Verb(
        "counterpoint.training.doctor:doctor",
        "say why a run does not learn",
        places=("run",),
        show="show_nothing",
    ),
    "reproduce": Verb(
        "counterpoint.claims:reproduce",
        "run a paper's claim and give the verdict",
        places=("system",),
        show="show_claim",
    ),
    "export": Verb(
        "counterpoint.export.export:export",
        "write plain weights that other libraries load, with measured parity",
        places=("run",),
        show="show_parity",
    ),
    "quickstart": Verb(
        "counterpoint.quickstart:quickstart",
        "train, evaluate, index and search on real pictures, in minutes",
        show="show_nothing",
    ),
}


def overview() -> str:
    """What `counterpoint --help` prints."""
    lines = [f"  {name:<12}{verb.summary}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            "usage: counterpoint VERB [arguments] [--option value ...]",
            "",
            "Contrastive representation learning for every modality.",
            "",
            "verbs:",
            *lines,
            "",
            "`counterpoint VERB --help` shows what a verb takes, `counterpoint train SYSTEM --help` what a",
            "system takes.",
            "--debug shows the whole traceback of an error, --version the version.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; the exit status is 0, 2 for an error that the message explains, 130 for Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words or os.environ.get("COUNTERPOINT_DEBUG", "") not in ("", "0")
    words = [word for word in words if word != "--debug"]
    try:
        return _dispatch(words)
    except KeyboardInterrupt as error:
        print(str(error) or "interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ImportError, ArithmeticError, NotImplementedError) as error:
        return _failed(str(error) or type(error).__name__, debug)


def _failed(text: str, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"error: {' '.join(text.split())}", file=sys.stderr)
    return 2


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if words[0] == "--version":
        from counterpoint import __version__

        print(f"counterpoint {__version__}")
        return 0
    name, rest = words[0], words[1:]
    if name not in VERBS:
        near = get_close_matches(name, VERBS, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(VERBS)}"
        raise ValueError(f"there is no verb {name!r}; {hint} (see `counterpoint --help`)")
    return _run(name, VERBS[name], rest)


def _run(name: str, verb: Verb, words: list[str]) -> int:
    from counterpoint.command import printing
    from counterpoint.command.binding import parser_of

    as_json = verb.json and "--json" in words
    words = [word for word in words if not (as_json and word == "--json")]
    bound, words = parser_of(name, verb, words)
    if any(word in ("-h", "--help") for word in words):
        print(bound.parser.help() + ("\n--json prints the result for machines.\n" if verb.json else ""), end="")
        return 0
    invocation = bound.invocation(words)
    result = invocation.run()
    if as_json:
        printing.print_json(result)
    else:
        getattr(printing, verb.show)(result, invocation.values)
    return 0


if __name__ == "__main__":
    sys.exit(main())
