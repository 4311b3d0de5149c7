# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`clip-hf search`: pictures and texts by text, by picture, or by several of both."""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from _clip_hf_cli.control_characters import escape_controls
from _clip_hf_cli.search import STARTED, TOP_K
from _clip_hf_cli.server_arguments import check_key_file

from ..data.texts import escaped
from ..embedding import DualEncoder
from ..embedding.load_encoder import check_encoder_options
from ..model.image_reading_clip_hf import ImageLimits, UnreadableImage, open_image
from ..search import (
    ApproximateIndex,
    EmbeddingIndex,
    FilmFrame,
    Moment,
    MomentSearcher,
    QueryTerm,
    Searcher,
    SearchHit,
    SearchResults,
    SheetGroup,
    SheetItem,
    SourceIndex,
    VectorStore,
    load_background_texts,
    open_store,
    parse_filters,
    parse_query,
    run_duplicates,
    sync_store,
    write_contact_sheet,
)
from ..search.film_index import FILM_SCHEMA
from ..search.folder_index import FOLDER_SCHEMA
from ..search.index_sources import is_folder_of_pictures
from ..search.search_results import FindRows, check_limits
from ..search.terminal_pictures import BLOCK, draw_pictures, picture_protocol
from ..utils.extras import require_extra
from ..utils.terminal_tables import draw_table
from ..utils.wording import counted
from .image_options import image_options
from .indexed_sources import find_index, find_modality, load_index_encoder, open_index, row_columns
from .moment_output import as_record, check_moment_options, cut_moments, link, span
from .terminal_text import encodable, json_line, printable


def run(options: argparse.Namespace) -> int:
    """Do what the arguments ask for; the exit status is 0, also where nothing fits, and 1 where a picture
    could not be moved or a clip not cut."""
    options.over = find_modality(options)
    terms = read_query(options)
    device = check_encoder_options(options.runtime, options.dtype, options.device)
    check_images(terms, image_options(options)["image_limits"])
    folder, index = find_index(options, options.over)
    _check_filters(options, folder, index)
    with open_store(options.store) if options.store else nullcontext() as store:
        encoder = load_index_encoder(options, index, device)
        seconds = {"start and model": time.perf_counter() - STARTED}
        started = time.perf_counter()
        source = open_index(options, encoder, folder, options.over, options.frames_per_second)
        seconds["index"] = time.perf_counter() - started
        if source.refresh is not None:
            print(f"clip-hf search: {encodable(source.refresh.describe())}", file=sys.stderr)
        if options.duplicates is not None:
            return _find_duplicates(options, source)
        find = None if store is None else _store_finder(options, source.index, store, seconds)
        if options.approximate is not None:
            find = _approximate_finder(options.approximate, encoder, source.index, seconds)
        if not terms:
            print(printable(f"{counted(len(source.index), 'row')} in {escaped(str(source.index.folder))}"))
            return 0
        is_over_films = options.over == "moments"
        searcher = MomentSearcher(encoder, source) if is_over_films else Searcher(encoder, source, find=find)
        results = searcher.search(
            terms,
            options.top_k or TOP_K,
            threshold=options.threshold,
            where=parse_filters(options.filter, source.index.filter_columns),
            no_match=options.no_match,
        )
    show_results(results, options, terms, seconds | results.seconds)
    return int(bool(options.cut) and cut_moments(results.hits, describe_query(terms), options.cut) > 0)


def read_query(options: argparse.Namespace) -> list[QueryTerm]:
    """The terms of the query, which are printed; a `ValueError` for options that do not go with them."""
    terms = parse_query(options.query, options.source) if options.query else []
    _check_options(options, terms)
    if terms:
        print(f"clip-hf search: query: {printable(describe_query(terms))}", file=sys.stderr)
    return terms


def _check_options(options: argparse.Namespace, terms: Sequence[QueryTerm]) -> None:
    """Raise a `ValueError` for options that do not go together, or are out of range."""
    check_key_file(options)
    check_limits(options.threshold, options.no_match)
    if options.server is None:
        check_moment_options(options)
    if not terms:
        _check_unused(options)
    if options.html is not None:
        _check_output(options.html)
    if options.approximate is not None:
        if options.filter or options.store:
            raise ValueError("--approximate has no filters and no database: leave out --filter and --store, or it.")
        require_extra("search", "--approximate", "faiss")
    if options.duplicates is not None and (terms or options.over == "texts"):
        raise ValueError("--duplicates compares pictures with each other: leave out the query, and --over texts.")
    if options.move_duplicates is not None and options.duplicates is None:
        raise ValueError("--move-duplicates says where to move what --duplicates finds: give both.")


def _check_unused(options: argparse.Namespace) -> None:
    """Raise a `ValueError` that names what is only for a query, where there is none."""
    names = ["top_k", "threshold", "no_match", "filter", "thumbnails"]
    names += ["json", "html"] if options.duplicates is None else ["approximate", "store"]
    unused = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) not in (None, [], False)]
    if unused:
        what = "There is no query" if options.duplicates is None else "--duplicates has no query"
        raise ValueError(f"{what}, and {', '.join(unused)} would do nothing without: leave out, or name one.")


def _check_output(file: str) -> None:
    """Raise an `OSError` for a file that cannot be written where its name says."""
    folder = os.path.dirname(os.path.abspath(file))
    if os.path.isdir(file):
        raise IsADirectoryError(f"--html is the folder {escaped(file)}; name a file.")
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"There is no folder {escaped(folder)} for the file of --html: make it first.")


def _find_duplicates(options: argparse.Namespace, source: SourceIndex) -> int:
    """Report near-duplicates: JSON lines or text on standard output, and a contact sheet if one is named."""
    with tempfile.TemporaryDirectory() as folder:
        lines = os.path.join(folder, "groups.jsonl") if options.json else None
        try:
            report = run_duplicates(
                source,
                options.duplicates,
                json_file=lines,
                html_file=options.html,
                move_to=options.move_duplicates,
                progress=True,
            )
        finally:  # also if the sheet cannot be written
            if lines is not None and os.path.exists(lines):
                with open(lines, encoding="ascii") as file:
                    shutil.copyfileobj(file, sys.stdout)
    print(encodable(report.summary()), file=sys.stderr if options.json else sys.stdout)
    return 1 if report.errors else 0


def _store_finder(
    options: argparse.Namespace, index: EmbeddingIndex, store: VectorStore, seconds: dict[str, float]
) -> FindRows:
    """Bring a database up to date with the index, and return what searches it."""
    synced = sync_store(index, store)
    seconds["store"] = synced.seconds
    counts = f"{synced.added:,} added, {synced.changed:,} changed, {synced.removed:,} removed"
    print(f"clip-hf search: {counted(len(index), 'row')} in {store.name} ({counts}).", file=sys.stderr)
    return lambda vector, k, where: store.search(vector, k, filters=options.filter)


def _approximate_finder(kind: str, encoder: DualEncoder, index: EmbeddingIndex, seconds: dict[str, float]) -> FindRows:
    """Open the approximate index, or build it where it is missing, damaged or of other rows; it says its recall."""
    started = time.perf_counter()
    try:
        approximate = ApproximateIndex.open(index, kind)
        print(f"clip-hf search: {approximate}", file=sys.stderr)
    except (FileNotFoundError, ValueError):
        # It logs what it measures.
        approximate = ApproximateIndex.build(index, encoder.encode_texts(load_background_texts()).numpy(), kind=kind)
    seconds["approximate index"] = time.perf_counter() - started
    return lambda vector, k, where: approximate.search(vector, k)


def check_images(terms: Sequence[QueryTerm], limits: ImageLimits) -> None:
    """Raise a `ValueError` that names a picture of a query that cannot be read, before a model is loaded."""
    for term in terms:
        if term.image is not None:
            try:
                open_image(term.image, limits)
            except UnreadableImage as error:
                raise ValueError(f"The query's image {escaped(str(term.image))}: {error}") from error


# ----------------------------------------------------------------------------------------------------------- the index


def _check_filters(options: argparse.Namespace, folder: Path | None, index: EmbeddingIndex | None) -> None:
    """Raise a `ValueError` for a wrong filter where the columns are known before the index is there."""
    columns = row_columns(options)
    if index is not None:
        parse_filters(options.filter, index.filter_columns)
    elif options.filter and options.over == "moments":
        parse_filters(options.filter, FILM_SCHEMA.insert(0, FILM_SCHEMA.field("name").with_name("id")))
    elif options.filter and folder is not None and is_folder_of_pictures(Path(options.source), folder, columns):
        parse_filters(options.filter, FOLDER_SCHEMA.insert(0, FOLDER_SCHEMA.field("name").with_name("id")))


# ---------------------------------------------------------------------------------------------------------- the output


def show_results(
    results: SearchResults, options: argparse.Namespace, terms: Sequence[QueryTerm], seconds: dict[str, float]
) -> None:
    """Write the results as the options say, and on standard error how long each step took."""
    seconds = {**seconds, "to the answer": time.perf_counter() - STARTED}
    query = describe_query(terms)
    try:
        _print_hits(results, options, query)
    finally:  # also for a reader that has enough of the output
        if options.html:
            _write_sheet(results, options, query)
    print("clip-hf search: " + ", ".join(f"{name} {each:.2f} s" for name, each in seconds.items()), file=sys.stderr)


def _print_hits(results: SearchResults, options: argparse.Namespace, query: str) -> None:
    missing = 0 if options.server is not None else sum(map(_is_missing, results.hits))
    if missing:
        what = f"{missing:,} of {counted(len(results.hits), 'hit')}"
        print(f"clip-hf search: the pictures of {what} are not where they were indexed.", file=sys.stderr)
    if not results.hits:
        print(encodable(_nothing(results, options)), file=sys.stderr if options.json else sys.stdout)
    elif options.json:
        print("\n".join(map(json_line, map(_as_record, results.hits))))
    else:
        print(encodable(_as_text(results.hits, query, options)))
    sys.stdout.flush()


def _write_sheet(results: SearchResults, options: argparse.Namespace, query: str) -> None:
    items = [
        SheetItem(
            hit.picture,
            [escaped(_title(hit)), f"{hit.rank}. score {hit.score:.4f}"],
            link=link(hit) if isinstance(hit, Moment) else None,
        )
        for hit in results.hits
    ]
    group = SheetGroup(_nothing(results, options) if not items else "", items)
    write_contact_sheet(options.html, f"{escaped(query)} in {escaped(options.source)}", [group])
    print(f"clip-hf search: wrote {printable(options.html)}", file=sys.stderr)


def _nothing(results: SearchResults, options: argparse.Namespace) -> str:
    """Why there are no hits, in a sentence."""
    source = printable(options.source)
    if results.best_score is None:
        return f"{source} has no rows" + (" that pass the filter." if options.filter else ".")
    needed = [] if results.lowest_score is None else [f"a fit takes more than {results.lowest_score:.3f}"]
    needed += [] if options.threshold is None else [f"the threshold is {options.threshold:g}"]
    return f"Nothing in {source} fits: the best score is {results.best_score:.3f}, and {', and '.join(needed)}."


def _as_text(hits: Sequence[SearchHit], query: str, options: argparse.Namespace) -> str:
    """A table for a terminal; for a pipe one line a hit: score and name, with a tab between and none inside."""
    # A server's names are escaped already.
    show = printable if options.server is None else lambda name: encodable(escape_controls(name).replace("\n", "\\n"))
    names = [show(_name(hit)) for hit in hits]
    is_terminal = sys.stdout.isatty()
    pictures = ""
    protocol = picture_protocol()
    can_show = _has_colours() and (protocol != "blocks" or encodable(BLOCK) == BLOCK)
    if options.thumbnails and not can_show:
        print("clip-hf search: no thumbnails: this output has no colours, or no character for them.", file=sys.stderr)
    is_wanted = can_show and (is_terminal if options.thumbnails is None else options.thumbnails)
    if is_wanted and any(hit.picture is not None for hit in hits):
        labels = [f"{hit.rank} {hit.score:.3f} {_label(hit, name)}" for hit, name in zip(hits, names)]
        width = shutil.get_terminal_size().columns
        pictures = draw_pictures([hit.picture for hit in hits], labels, width, protocol) + "\n\n"
    if not is_terminal:
        lines = [(f"{hit.score:.6f}", *_times(hit), name) for hit, name in zip(hits, names)]
        return pictures + "\n".join(map("\t".join, lines))
    rows = [(str(hit.rank), f"{hit.score:.4f}", *_times(hit), name) for hit, name in zip(hits, names)]
    columns = ("", "score", *(("time",) if _times(hits[0]) else ()), "name")
    return pictures + draw_table(printable(query), columns, rows)


def _times(hit: SearchHit) -> tuple[str, ...]:
    return (span(hit),) if isinstance(hit, Moment) else ()


def _label(hit: SearchHit, name: str) -> str:
    return " ".join((*_times(hit), os.path.basename(name)))


def _title(hit: SearchHit) -> str:
    return " ".join((_name(hit), *_times(hit)))


def _has_colours() -> bool:
    return "NO_COLOR" not in os.environ and os.environ.get("TERM", "dumb") not in ("dumb", "vt100")


def describe_query(terms: Sequence[QueryTerm]) -> str:
    """The query as it was understood, such as `a beach + dog.jpg - 0.5*people`."""
    shown = []
    for term in terms:
        sign = "-" if term.weight < 0 else "+"
        weight = "" if abs(term.weight) == 1 else f"{abs(term.weight):g}*"
        shown += [sign, weight + (str(term.image) if term.text is None else term.text)]
    return " ".join(shown).removeprefix("+ ")


def _name(hit: SearchHit) -> str:
    """What names a hit: the path of its picture, else its text, else its name or id."""
    file = hit.picture.film if isinstance(hit.picture, FilmFrame) else hit.picture
    if isinstance(file, str | os.PathLike):
        path = os.fsdecode(file)
        below = os.path.relpath(path)
        return path if below.startswith("..") else below
    named = (hit.metadata.get(column) for column in ("caption", "text", "name"))
    return str(next((value for value in named if value), hit.id))


def _is_missing(hit: SearchHit) -> bool:
    return hit.picture is None and "path" in hit.metadata  # a row of a folder


def _as_record(hit: SearchHit) -> dict[str, Any]:
    if isinstance(hit, Moment):
        return as_record(hit)
    record = {"rank": hit.rank, "score": hit.score, "id": hit.id}
    if isinstance(hit.picture, str | os.PathLike):
        record["path"] = escaped(os.path.abspath(os.fsdecode(hit.picture)))
    return {**record, "metadata": hit.metadata}
