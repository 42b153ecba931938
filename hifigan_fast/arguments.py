"""The command line's parser: options are written out, and an unknown one is named before all else."""

import argparse
import difflib


class Parser(argparse.ArgumentParser):
    """An ArgumentParser without abbreviations; its subcommands' parsers are of the same kind."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def parse_known_args(self, args=None, namespace=None):
        words, known = list(args or ()), self._option_string_actions
        words = words[: words.index("--")] if "--" in words else words
        names = [word.split("=")[0] for word in words if word.startswith("--")]
        unknown = [name for name in names if name not in known]
        if unknown and not any(action.nargs == argparse.PARSER for action in self._actions):  # options of subcommands
            near = difflib.get_close_matches(unknown[0], known, 1)
            self.error(f"unknown option {unknown[0]}" + (f"; did you mean {near[0]}?" if near else ""))
        return super().parse_known_args(args, namespace)
