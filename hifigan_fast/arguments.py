"""The command line's parser: options are written out, an unknown one is named before all else, an error is a line."""

import argparse
import contextlib
import difflib
import sys


def whole(text):
    """The type of a flag that takes an integer: 2500000, or 2.5e6."""
    for kind in int, float:
        with contextlib.suppress(ValueError):
            if (value := kind(text)) % 1 == 0:  # neither inf nor nan
                return int(value)
    raise argparse.ArgumentTypeError(f"expected an integer, got {text!r}")


def positive(text):
    """The type of a flag that counts."""
    value = whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


def _near(word, known, cutoff=0.6):
    near = difflib.get_close_matches(word, known, 1, cutoff)
    return f"; did you mean {near[0]}?" if near else ""


def _invalid(word, choices):
    return f"invalid choice: {word}" + (_near(word, choices, 0.8) or f", expected one of {', '.join(choices)}")


class Parser(argparse.ArgumentParser):
    """An ArgumentParser without abbreviations; its subcommands' parsers are of the same kind."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message):
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")

    def parse_known_args(self, args=None, namespace=None):
        args = sys.argv[1:] if args is None else args
        words, known = list(args), self._option_string_actions
        words = words[: words.index("--")] if "--" in words else words
        unknown = [name for word in words if (name := word.split("=")[0]).startswith("--") and name not in known]
        commands = next((action.choices for action in self._actions if action.nargs == argparse.PARSER), None)
        if commands is None:
            if unknown:
                self.error(f"unknown option {unknown[0]}{_near(unknown[0], known)}")
            values = [word.split("=", 1)[-1] if word.startswith("--") else word for word in args]
            if "" in values:  # as an unset variable leaves one: a folder of no name would be the current one
                at = values.index("")
                self.error(f"expected no empty argument, got {args[at]!r} after {' '.join(args[:at]) or 'nothing'}")
        elif words and words[0][:1] != "-" and words[0] not in commands:  # options may be its commands'
            self.error(_invalid(words[0], commands))
        return super().parse_known_args(args, namespace)

    def _get_value(self, action, text):
        named = action.choices is not None and action.nargs != argparse.PARSER
        return super()._get_value(action, text.lower() if named else text)  # all choices are lower case

    def _check_value(self, action, value):
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, _invalid(value, action.choices))
