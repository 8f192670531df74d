"""`ovs vocabulary`: look at a vocabulary file before a robot depends on it."""

import json
from dataclasses import asdict
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import Progress
from rich.style import Style
from rich.table import Table
from rich.text import Text

from ovs_ros.vocabulary.cache import EmbeddingCache
from ovs_ros.vocabulary.category import Category
from ovs_ros.vocabulary.linter import Finding, lint, lint_names
from ovs_ros.vocabulary.prompts import embed
from ovs_ros.vocabulary.text_encoder import TextEncoder
from ovs_ros.vocabulary.vocabulary import Vocabulary, VocabularyError
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings
from ovs_ros.vocabulary.yaml_io import find_vocabulary, load_vocabulary, read_draft

app = typer.Typer(help="Check and show vocabulary files.", no_args_is_help=True)

VocabularyFile = Annotated[
    str, typer.Argument(metavar="VOCABULARY", help="A YAML file, or home, office, street or warehouse.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command("lint")
def lint_command(
    file: VocabularyFile,
    near: Annotated[
        float, typer.Option(min=-1, max=1, help="Cosine from which two words count as near synonyms.")
    ] = 0.9,
    words_only: Annotated[
        bool, typer.Option("--words-only", help="Leave near synonyms out, which need the text encoder.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Warn of doubles, near synonyms, and empty, overlong or too general words.

    Exits with 0 when there is nothing to say, 1 with findings, and 2 when the file has another form.
    """
    findings = _findings(file, near, words_only)
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False))
    elif findings:
        table = Table("kind", "words", "what to do")
        for finding in findings:
            table.add_row(finding.kind, Text(", ".join(finding.names)), Text(finding.message))
        Console().print(table)
    else:
        Console().print(Text(f"{file}: nothing to say against it"))
    raise typer.Exit(1 if findings else 0)


@app.command("show")
def show_command(file: VocabularyFile, as_json: AsJson = False) -> None:
    """Show what ids, colours, prompts and thresholds a vocabulary's words get.

    Exits with 2 when the file cannot be used.
    """
    try:
        vocabulary = load_vocabulary(file)
    except VocabularyError as error:
        _stop(str(error))
    if as_json:
        typer.echo(json.dumps(_as_dict(vocabulary), indent=2, ensure_ascii=False))
        return
    table = Table("id", "colour", "name", "prompts", "threshold")
    for category in vocabulary.categories:
        threshold = "" if category.threshold is None else f"{category.threshold:g}"
        table.add_row(
            str(category.id),
            _swatch(category),
            Text(category.name),
            Text("\n".join(category.prompts)),
            threshold,
        )
    console = Console()
    console.print(table)
    if vocabulary.negatives:
        console.print(Text(f"negative words: {', '.join(vocabulary.negatives)}"))
    console.print(f"{len(vocabulary)} categories; unknown is {vocabulary.unknown_id}", highlight=False)


def text_encoder() -> TextEncoder:
    """The embedded model's text encoder, without its image encoder.

    Raises:
        FileNotFoundError: a file of the model is missing.
    """
    # Imported late: ONNX Runtime takes a while to load, and `show` does without.
    from ovs_ros.encoders.embedded import EmbeddedTextEncoder

    return EmbeddedTextEncoder()


def _findings(name: str, near: float, words_only: bool) -> list[Finding]:
    try:
        draft = read_draft(find_vocabulary(name))
    except VocabularyError as error:
        _stop(str(error))
    try:
        vocabulary = load_vocabulary(name)
    except VocabularyError as error:
        findings = lint_names([entry.name for entry in draft.entries], draft.negatives)
        return [*findings, Finding("refused", (), str(error))]
    if words_only:
        return lint(vocabulary, near=near)
    try:
        encoder = text_encoder()
    except FileNotFoundError as error:
        _stop(f"expected the text encoder's files, got none: {error}; give --words-only to do without")
    return lint(vocabulary, _embedded(vocabulary, encoder), near, encoder.reads)


def _embedded(vocabulary: Vocabulary, encoder: TextEncoder) -> WordEmbeddings:
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("embedding words", total=None)
        return embed(
            vocabulary,
            encoder,
            EmbeddingCache(),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def _as_dict(vocabulary: Vocabulary) -> dict[str, object]:
    return {
        "version": vocabulary.version,
        "unknown_id": vocabulary.unknown_id,
        "categories": [{**asdict(c), "color": list(c.color)} for c in vocabulary.categories],
        "negatives": list(vocabulary.negatives),
    }


def _swatch(category: Category) -> Text:
    code = "#{:02x}{:02x}{:02x}".format(*category.color)
    return Text.assemble(("    ", Style(bgcolor=code)), f" {code}")


def _stop(message: str) -> NoReturn:
    Console(stderr=True).print(Text(f"error: {message}", style="red"), soft_wrap=True)
    raise typer.Exit(2)
