"""`dvfs tag`: give a version tags, and take them."""

from __future__ import annotations

import click

from dvfs.cli.options import Command, Many, common, dataset_and_words, id_option, json_option, quiet_option, text
from dvfs.cli.output import emit, record_fields, say, shown, wants_json, wants_quiet
from dvfs.cli.session import opened

_ADD = "dvfs.cli.tag.add"
_REMOVE = "dvfs.cli.tag.remove"
_KEPT = {"-", "-h", "-q"}
_WITH_VALUE = {"--id", "--store", "--add", "--remove"}


class TagCommand(Command):
    """A command that takes `+TAG` and `-TAG` from anywhere among its words."""

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["[DATASET]", "[+TAG] [-TAG]...", "[OPTIONS]"]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Set the signed words aside, then parse the others."""
        rest, ctx.meta[_ADD], ctx.meta[_REMOVE] = signed(args)
        return super().parse_args(ctx, rest)


def signed(args: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Return *args* without the words `+TAG` and `-TAG`, and the tags of each of the two.

    Behind `--` there are none, nor is the word after an option that takes one.
    """
    rest: list[str] = []
    add: list[str] = []
    remove: list[str] = []
    for index, word in enumerate(args):
        if word == "--":
            return rest + args[index:], add, remove
        if index and args[index - 1] in _WITH_VALUE:
            rest.append(word)
        elif word.startswith("+") and len(word) > 1:
            add.append(word[1:])
        elif word.startswith("-") and not word.startswith("--") and word not in _KEPT:
            remove.append(word[1:])
        else:
            rest.append(word)
    return rest, add, remove


@click.command(cls=TagCommand, name="tag")
@click.argument("words", nargs=-1)
@id_option
@click.option("--add", cls=Many, type=text, metavar="TAG...", help="Give these tags, as +TAG does.")
@click.option("--remove", cls=Many, type=text, metavar="TAG...", help="Take these tags, as -TAG does.")
@quiet_option()
@json_option
@common
@click.pass_context
def command(ctx: click.Context, words: tuple[str, ...], add: tuple[str, ...], remove: tuple[str, ...]) -> None:
    """Give a version tags (+TAG, or TAG behind the dataset) and take others (-TAG); with neither, show them.

    `latest` is taken from the other versions of the dataset. Tags h and q are taken by --remove h q.
    """
    from dvfs.store import labels

    dataset, plain = dataset_and_words(words)
    added = [*map(text, (*ctx.meta[_ADD], *plain)), *add]
    removed = [*map(text, ctx.meta[_REMOVE]), *remove]
    with opened() as session:
        spec = session.named(dataset)
        if added or removed:
            record = labels.tag(session.store, spec, add=added, remove=removed)
        else:
            record = labels.find(session.store, spec)
    if wants_json():
        emit(record_fields(record))
    elif not wants_quiet():
        say(f"Tags of dataset id={record.id} {record.title}: {', '.join(map(shown, record.tags)) or 'none'}")
