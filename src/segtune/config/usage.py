"""The help of every command, generated from conf/*.yaml: what it does, its config groups and keys, and examples.

Each file begins with comments. These are a line `# VERB: DESCRIPTION`, more sentences, and examples that begin with
python -m segtune.
"""

import itertools
import re
import textwrap
from collections.abc import Iterator, Sequence

from segtune.config import CONF
from segtune.errors import as_typed

FILES = ("config", "status", "report", "check", "calibrate", "evaluate", "predict", "export")
MODULE = "python -m segtune"
WIDTH = 100
WHAT = re.compile(r"(\w+): (.*)")
KEY = re.compile(r'(?P<indent> *)"?(?P<key>[\w.]+)"?:(?: (?P<value>(?!#).*?))?(?: *# (?P<comment>.*))?')


def verbs() -> dict[str, str]:
    """Return each verb and its description. The files are read as text, because importing Hydra is slow."""
    return {verb: what for name in FILES for verb, what in _what(_head(name))}


def overview() -> str:
    """Return the help of the command `segtune`: a line for each verb, and examples."""
    lines = [
        "segtune: which loss, split, regulariser and batch size to train a segmentation network with.",
        *_block("Verbs; segtune VERB --help says more:", _aligned(list(verbs().items()))),
        *_block("Examples:", _aligned(_examples(_head("config")))),
    ]
    return "\n".join(lines)


def screen(name: str) -> str:
    """Return the help of the command whose configuration is conf/<name>.yaml."""
    head = _head(name)
    what = [f"{as_typed(MODULE + _suffix(verb))}: {what}" for verb, what in _what(head)]
    told = " ".join(line for line in head if not line.startswith(MODULE) and not WHAT.fullmatch(line))
    groups = [f"{group}: {', '.join(options)}" for group, options in _groups(name)]
    keys = [(f"{key}={'...' if value == '???' else value}", comment) for key, value, comment in own_keys(name)]
    options = ", with the keys of each option" if groups else ""
    lines = [
        *_wrapped(what, WIDTH),
        *["", *textwrap.wrap(told, WIDTH)],
        *_block("Config groups, group=option:", _packed(groups, WIDTH - 2)),
        *_block("Keys, key=value:", _aligned(keys)),
        *_block("Examples:", _aligned(_examples(head))),
        "",
        f"The whole configuration{options}: --cfg job. Hydra's flags: --hydra-help.",
    ]
    return "\n".join(lines)


def own_keys(name: str) -> list[tuple[str, str, str]]:
    """Return the dotted key, value and comment of every value in conf/<name>.yaml and in the files that it is based on."""
    found = []
    for file in [name, *_bases(name)]:
        parents: list[str] = []
        for line in (CONF / f"{file}.yaml").read_text(encoding="utf-8").splitlines():
            if match := KEY.fullmatch(line):
                parents[len(match["indent"]) // 2 :] = [match["key"]]
                if match["value"] and parents[0] not in ("defaults", "hydra"):
                    found.append((".".join(parents), match["value"], match["comment"] or ""))
    return found


def _head(name: str) -> list[str]:
    lines = (CONF / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("# ") for line in itertools.takewhile(lambda line: line.startswith("#"), lines)]


def _what(head: list[str]) -> list[tuple[str, str]]:
    found = map(WHAT.fullmatch, head)
    return [(match[1], match[2]) for match in found if match]


def _suffix(verb: str) -> str:
    """Return what follows `python -m segtune` in the command that a verb stands for, such as " -m" for sweep."""
    return {"train": "", "sweep": " -m"}.get(verb, f".{verb}")


def _examples(head: list[str]) -> list[tuple[str, str]]:
    """Return each example and its description.

    The command is written in the form in which the user started this process (see as_typed).
    """
    found = (re.split(r" {2,}", line, maxsplit=1) for line in head if line.startswith(MODULE))
    return [(as_typed(example), " ".join(what)) for example, *what in found]


def _defaults(name: str) -> Iterator[str | dict[str, str]]:
    from omegaconf import OmegaConf

    found = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    assert isinstance(found, dict)
    yield from found["defaults"]


def _bases(name: str) -> list[str]:
    return [one for one in _defaults(name) if isinstance(one, str) and one != "_self_"]


def _groups(name: str) -> list[tuple[str, list[str]]]:
    """Return the config groups of the command with their options, including those in the user's own config folders."""
    from segtune.config.overrides import groups

    known = groups()
    files = [*_bases(name), name]
    keys = [key.removeprefix("override ") for file in files for one in _defaults(file) if isinstance(one, dict) for key in one]
    return [(key, known[key]) for key in keys if key in known and key != "hydra/sweeper"]


def _aligned(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Return rows as lines in two columns.

    The text of the second column is wrapped. It starts on a new line if the text of the first column is too long.
    """
    width = max((len(first) for first, _ in rows if len(first) <= WIDTH // 2), default=0) + 2
    found = []
    for first, second in rows:
        lines = textwrap.wrap(second, WIDTH - 2 - width) or [""]
        if len(first) + 2 <= width:
            found += [f"{first:{width}}{lines.pop(0)}".rstrip()]
        else:
            found += [first]
        found += [" " * width + line for line in lines if line]
    return found


def _wrapped(paragraphs: Sequence[str], width: int) -> list[str]:
    return [line for one in paragraphs for line in textwrap.wrap(one, width, subsequent_indent="  ")]


def _packed(items: Sequence[str], width: int) -> list[str]:
    """Distribute the items over lines. Each item is added to the last line that has room, or to a new line."""
    lines: list[str] = []
    for item in items:
        fits = [at for at in range(len(lines)) if len(lines[at]) + 3 + len(item) <= width]
        if fits:
            lines[fits[-1]] += f"   {item}"
        else:
            lines += _wrapped([item], width)
    return lines


def _block(title: str, lines: Sequence[str]) -> list[str]:
    """Return an empty line, the title and the indented lines. Return an empty list if there are no lines to indent."""
    return ["", title, *(f"  {line}" for line in lines)] if lines else []
