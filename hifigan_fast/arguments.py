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
        commands = next((action.choices for action in self._actions if action.nargs == argparse.PARSER), None)
        if commands is None:
            self._refuse("unknown option", unknown, known)
            values = [word.split("=", 1)[-1] if word.startswith("--") else word for word in args or ()]
            if "" in values:  # as an unset variable leaves one: a folder of no name would be the current one
                at = values.index("")
                self.error(f"expected no empty argument, got {args[at]!r} after {' '.join(args[:at]) or 'nothing'}")
        else:  # options may be its commands'
            strange = [word for word in words[:1] if word[:1] != "-" and word not in commands]
            self._refuse("invalid choice:", strange, commands, f", expected one of {', '.join(commands)}")
        return super().parse_known_args(args, namespace)

    def _refuse(self, what, words, known, otherwise=""):
        if words:
            near = difflib.get_close_matches(words[0], known, 1)
            self.error(f"{what} {words[0]}" + (f"; did you mean {near[0]}?" if near else otherwise))
