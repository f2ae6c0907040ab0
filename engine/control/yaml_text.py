"""YAML as connectors are written in it: plain values and the tag `!keep`, nothing that runs, and no error that quotes what it met."""

from __future__ import annotations

from typing import Any

import yaml

from engine.errors import ConfigurationError


class Keep:
    """Stands for a secret that is stored, and stays (`!keep`)."""


KEEP = Keep()
_TAG = "!keep"


def load(text: str) -> Any:
    """The values of a document.

    Raises:
        ConfigurationError: No YAML, a key twice, a tag that is not known, or something that contains itself.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a safe loader that knows one more tag
    except yaml.MarkedYAMLError as error:
        at = f" at line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}" if error.problem_mark else ""
        why = f": {error.problem}" if isinstance(error, _Refused) else ""
        raise ConfigurationError(f"the file is no YAML that ferry reads{at}{why}") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigurationError("the file is no YAML that ferry reads") from None


def dump(value: Any) -> str:
    """The text of a document; long texts (queries) are blocks that people can read."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=160)


class _Refused(yaml.constructor.ConstructorError):
    """Refused by a rule of ours; its problem is our own text."""


class _Loader(yaml.SafeLoader):
    """Plain values and `!keep`."""

    def plain_object(self, node: yaml.Node) -> dict[str, Any]:
        """An object, each key once. Keys are text, as in JSON: `null`, a key of PostgreSQL sources, is no text to YAML."""
        found: dict[str, Any] = {}
        for key, value in node.value if isinstance(node, yaml.MappingNode) else []:
            if not isinstance(key, yaml.ScalarNode):
                raise _Refused(problem="a key is plain text", problem_mark=key.start_mark)
            if key.value in found:
                raise _Refused(problem="a key stands twice", problem_mark=key.start_mark)
            found[key.value] = self.construct_object(value, deep=True)
        return found

    def keep(self, node: yaml.Node) -> Keep:
        """`!keep`, alone."""
        if not isinstance(node, yaml.ScalarNode) or node.value:
            raise _Refused(problem="!keep stands alone", problem_mark=node.start_mark)
        return KEEP


class _Dumper(yaml.SafeDumper):
    """As the loader; no anchors, since every `!keep` would be an alias of the first."""

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True

    def choose_scalar_style(self) -> str:
        """`!keep` alone, where the library would write `!keep ''`."""
        return "" if getattr(self.event, "tag", None) == _TAG else super().choose_scalar_style()


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.plain_object)
_Loader.add_constructor(_TAG, _Loader.keep)
_Dumper.add_representer(Keep, lambda dumper, _: dumper.represent_scalar(_TAG, ""))
_Dumper.add_representer(str, _text)
