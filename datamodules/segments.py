"""Parts of corpora too large to list, tar files and stretches of JSON lines, and what begins where in them.

Tar files are read with the standard library: WebDataset's own reader cannot resume from a byte that a checkpoint keeps.
"""

import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.audio_file import TarMember
from datamodules.utterance import Utterance, parse_json_line, to_utterance
from qat.system.errors import UserError

SEGMENT_BYTES = 1 << 20  # of a JSON lines file: what a worker takes at a time
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")

Item = tuple[int, Utterance | UserError]
"""(where the next item begins, in bytes; what was read, or what is wrong with it)."""


@dataclass(frozen=True)
class Segment:
    """A part of a corpus that one worker reads from its beginning to its end.

    Args:
        path: `.jsonl` or `.tar` file.
        start: first byte; a line belongs to the segment in which it begins.
        end: first byte after it.
    """

    path: Path
    start: int
    end: int

    def items(self, offset: int, audio_root: Path | None) -> Iterator[Item]:
        """What begins at or after `offset` (which `items` yielded, or `start`); a bad item is yielded as its error."""
        if self.path.suffix == ".tar":
            return tar_items(self.path, offset)
        return line_items(self, offset, self.path.parent if audio_root is None else audio_root)


def find_segments(patterns: str | Sequence[str]) -> list[Segment]:
    """Segments of all files that fit.

    Args:
        patterns: file, or glob such as `shards/train-*.tar`; or several.

    Raises:
        UserError: a pattern that fits no file, or a file of another kind.
    """
    found: list[Segment] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        anchor = Path(pattern).anchor
        paths = sorted(Path(anchor).glob(str(Path(pattern).relative_to(anchor) if anchor else pattern)))
        if not paths:
            raise UserError(
                f"train {pattern!r}: fits no file; must be a .tar or .jsonl file, or a glob of them"
            )
        for path in paths:
            size = path.stat().st_size
            if path.suffix == ".tar":
                found.append(Segment(path, 0, size))
            elif path.suffix in (".jsonl", ".json"):
                found += [
                    Segment(path, start, min(start + SEGMENT_BYTES, size))
                    for start in range(0, size, SEGMENT_BYTES)
                ]
            else:
                raise UserError(f"{path}: unknown kind of corpus; must be .tar or .jsonl")
    if not found:
        raise UserError(f"train {patterns!r}: all files are empty; must be at least one utterance")
    return found


def line_items(segment: Segment, offset: int, root: Path) -> Iterator[Item]:
    """Utterances of the lines that begin in a segment of a JSON lines file."""
    with segment.path.open("rb") as file:
        if offset and offset == segment.start:
            file.seek(offset - 1)
            file.readline()  # the rest of a line that began in the segment before
        else:
            file.seek(offset)
        while (place := file.tell()) < segment.end and (line := file.readline()):
            if line.strip():
                yield file.tell(), read_line(line, f"{segment.path}, byte {place}", root)


def read_line(line: bytes, where: str, root: Path) -> Utterance | UserError:
    """The utterance of a line of JSON, or what is wrong with it."""
    try:
        return to_utterance(parse_json_line(line, where), where, root)
    except UserError as error:
        return error


def tar_items(path: Path, offset: int) -> Iterator[Item]:
    """Utterances of a tar file in WebDataset's layout: neighbouring members of one name, `KEY.wav` and `KEY.json`.

    The audio is not read, only found. `KEY.txt` holds the text; `KEY.json` the fields of a manifest's line.
    """
    size = path.stat().st_size
    if offset >= size:
        return
    with path.open("rb") as file:
        file.seek(offset)
        group: list[tarfile.TarInfo] = []
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                while (member := archive.next()) is not None:
                    vars(archive)["members"] = []  # otherwise it remembers all of them
                    if not member.isfile():
                        continue
                    if group and key_of(member) != key_of(group[0]):
                        yield member.offset, tar_sample(path, archive, group)
                        group = []
                    group.append(member)
                if group:
                    yield size, tar_sample(path, archive, group)
        except (tarfile.TarError, EOFError, OSError) as error:
            wrong = f"{path}: is truncated or not a tar file ({error}); must be a whole tar; copy it again"
            yield size, UserError(wrong)


def key_of(member: tarfile.TarInfo) -> str:
    """A member's name up to the first dot of its last part: what the members of one utterance share."""
    folder, slash, name = member.name.rpartition("/")
    return folder + slash + name.partition(".")[0]


def tar_sample(
    path: Path, archive: tarfile.TarFile, group: Sequence[tarfile.TarInfo]
) -> Utterance | UserError:
    """The utterance of neighbouring members, or what is wrong with it."""
    key = key_of(group[0])
    where = f"{path}, {key}"
    row: dict[str, Any] = {"id": key}
    audio: TarMember | None = None
    try:
        for member in group:
            suffix = "." + member.name.rpartition(".")[2].lower()
            if suffix in AUDIO_SUFFIXES:
                audio = TarMember(path, member.offset_data, member.size, member.name)
            elif suffix in (".json", ".txt"):
                extracted = archive.extractfile(member)
                content = extracted.read().decode() if extracted is not None else ""
                row |= json.loads(content) if suffix == ".json" else {"text": content}
        if audio is None:
            return UserError(f"{where}: holds no audio; must be a member named *{', *'.join(AUDIO_SUFFIXES)}")
        return to_utterance(
            {name: value for name, value in row.items() if value is not None}, where, path, audio
        )
    except UserError as error:
        return error
    except (ValueError, TypeError) as error:
        return UserError(
            f"{where}: its text or JSON cannot be read ({error}); must be UTF-8 text, or one JSON object"
        )
