"""`ovs vocabulary`: look at a vocabulary file before a robot depends on it, and teach it by pointing."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from ovs_ros.cli.common import JsonOption, embedding_bar, print_table, say, user_errors, write_json
from ovs_ros.cli.label_views import labelspace_command, view_command
from ovs_ros.runtime.quoting import quoted
from ovs_ros.vocabulary.cache import EmbeddingCache
from ovs_ros.vocabulary.examples import Example
from ovs_ros.vocabulary.knowledge import Knowledge, load_knowledge
from ovs_ros.vocabulary.linter import Finding, lint, lint_names, note_knowledge
from ovs_ros.vocabulary.prompts import embed
from ovs_ros.vocabulary.text_encoder import TextEncoder
from ovs_ros.vocabulary.vocabulary import Category, CategorySpec, Vocabulary, VocabularyError, name_key
from ovs_ros.vocabulary.yaml_io import (
    dump_vocabulary,
    example_entry,
    find_vocabulary,
    load_vocabulary,
    read_draft,
)

app = typer.Typer(help="Check, show and teach vocabulary files.", no_args_is_help=True)
app.command("view")(view_command)
app.command("labelspace")(labelspace_command)

VocabularyFile = Annotated[
    str, typer.Argument(metavar="VOCABULARY", help="A YAML file, or home, office, street or warehouse.")
]


@app.command("lint")
@user_errors()
def lint_command(
    file: VocabularyFile,
    near: Annotated[
        float, typer.Option(min=-1, max=1, help="Cosine from which two words count as near synonyms.")
    ] = 0.9,
    words_only: Annotated[
        bool, typer.Option("--words-only", help="Leave near synonyms out, which need the text encoder.")
    ] = False,
    json_file: JsonOption = None,
) -> None:
    """Warn of duplicates, near synonyms, and empty, overlong or too general words; note what the model knows.

    Notes say which words the model saw only in captions of pictures, or in text alone, and which of them it
    confused on images with labels. Exits with 0 without other findings, 1 with some, and 2 when the file has
    another form.
    """
    findings = _findings(file, near, words_only)
    write_json(json_file, [asdict(finding) for finding in findings])
    if findings:
        rows = [(finding.kind, ", ".join(finding.names), finding.message) for finding in findings]
        print_table(["kind", "words", "what to do"], rows)
    if not all(finding.is_note for finding in findings):
        raise typer.Exit(1)
    say(f"{file}: no findings" + (" but notes" if findings else ""))


@app.command("show")
@user_errors()
def show_command(file: VocabularyFile, json_file: JsonOption = None) -> None:
    """Show what ids, colours, prompts and thresholds a vocabulary's words get.

    Exits with 2 when the file cannot be used.
    """
    vocabulary = load_vocabulary(file)
    rows: list[list[str | Text]] = []
    for category in vocabulary.categories:
        code = "#{:02x}{:02x}{:02x}".format(*category.color)
        threshold = "" if category.threshold is None else f"{category.threshold:g}"
        swatch = Text.assemble(("    ", f"on {code}"), f" {code}")
        texts = "\n".join(category.synonyms), "\n".join(category.prompts)
        rows.append([str(category.id), swatch, category.name, *texts, threshold])
    print_table(["id", "colour", "name", "synonyms", "prompts", "threshold"], rows)
    if vocabulary.negatives:
        say(f"negative words: {', '.join(vocabulary.negatives)}")
    say(f"{len(vocabulary)} categories; unknown is {vocabulary.unknown_id}")
    results = {
        "version": vocabulary.version,
        "unknown_id": vocabulary.unknown_id,
        "categories": [_shown(category, find_vocabulary(file).parent) for category in vocabulary.categories],
        "negatives": list(vocabulary.negatives),
    }
    write_json(json_file, results)


@app.command("teach")
@user_errors()
def teach_command(
    file: Annotated[Path, typer.Argument(metavar="WORDS.yaml", help="A vocabulary file; made if missing.")],
    name: Annotated[str, typer.Argument(help="The category; added to the file if it is not in it.")],
    image: Annotated[Path, typer.Argument(help="An image that shows it.")],
    box: Annotated[
        str | None, typer.Option(metavar="X0,Y0,X1,Y1", help="Where, in pixels; x1 and y1 are just outside.")
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Where: a grey image of the same size, above 0 inside.")
    ] = None,
    points: Annotated[
        list[str] | None,
        typer.Option(metavar="X,Y", help="Where: a point on it, in pixels; may be given several times."),
    ] = None,
    negative: Annotated[bool, typer.Option("--negative", help="The region shows what it is not.")] = False,
    examples_only: Annotated[
        bool, typer.Option("--examples-only", help="The name says nothing of looks: 'my mug', 'bay 7'.")
    ] = False,
) -> None:
    """Teach a word by pointing: write an example into a vocabulary file. Comments in it are lost.

    Exits with 2, and leaves the file as it was, when the example cannot be used.
    """
    corners = None if box is None else _numbers(box, "--box", 4)
    example = Example(image, corners, mask, tuple(_numbers(p, "--points", 2) for p in points or ()), negative)
    height, width = example.read_image().shape[:2]
    example.region(height, width)
    if file.exists():
        vocabulary = load_vocabulary(file).taught(name, example, examples_only=examples_only)
    else:
        spec = CategorySpec(name, examples=(example,), examples_only=examples_only)
        vocabulary = Vocabulary.from_specs([spec])
    dump_vocabulary(vocabulary, file)
    taught = next(c for c in vocabulary.categories if name_key(c.name) == name_key(name))
    count = len(taught.examples)
    say(f"{file}: '{taught.name}' has {count} example{'s' if count > 1 else ''}")


def _numbers(text: str, flag: str, count: int) -> tuple[int, ...]:
    parts = text.replace(",", " ").split()
    if len(parts) != count or not all(part.isascii() and part.isdigit() for part in parts):
        raise ValueError(
            f"expected {count} whole numbers with commas between them for {flag}, got {quoted(text)}"
        )
    return tuple(int(part) for part in parts)


def _shown(category: Category, folder: Path) -> dict[str, Any]:
    """A category for JSON; paths start at the vocabulary's folder."""
    examples = [example_entry(example, folder) for example in category.examples]
    return {
        **asdict(replace(category, examples=(), examples_only=False)),
        "examples": examples,
        "examples_only": category.examples_only,
        "color": list(category.color),
    }


def text_encoder() -> TextEncoder:
    """The embedded model's text encoder, without its image encoder.

    Raises:
        FileNotFoundError: a file of the model is missing.
    """
    # Imported late: ONNX Runtime takes a while to load, and `show` does without.
    from ovs_ros.encoders.embedded import EmbeddedTextEncoder

    return EmbeddedTextEncoder()


def knowledge() -> Knowledge:
    """What the embedded model knows of words."""
    from ovs_ros.encoders.embedded import MODELS

    return load_knowledge(MODELS)


def _findings(name: str, near: float, words_only: bool) -> list[Finding]:
    entries, negatives = read_draft(find_vocabulary(name))
    try:
        vocabulary = load_vocabulary(name)
    except VocabularyError as error:
        findings = lint_names([entry.name for entry in entries], negatives)
        return [*findings, Finding("refused", (), str(error))]
    if words_only:
        return lint(vocabulary, near=near)
    try:
        encoder = text_encoder()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"expected the text encoder's files, got none: {error}; give --words-only to do without"
        ) from error
    known = knowledge()
    with embedding_bar(vocabulary) as progress:
        words = embed(vocabulary, encoder, EmbeddingCache(), progress, knowledge=known)
    return lint(vocabulary, words, near, encoder.reads) + note_knowledge(vocabulary, known)
