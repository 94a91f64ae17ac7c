"""A log as other programs left it → lines of the kernel's text, with the byte that every character came from.

Between the kernel and the file stand serial lines, terminals, loggers and mail programs. What they do to a line
is undone here only where it is certain:

* UTF-16 with a byte order mark, as Windows' shells write what they redirect; UTF-8's mark;
* line ends CR LF, CR CR LF, lone CR, ``^M``; NULs at a line's edges; colours and other terminal escapes, also as
  syslog writes them;
* mail in quoted-printable, where a line that ends in ``=`` goes on (taken only if the file has ``=3D`` or says so);
* what stands before the statement: quotation marks of mail, printk's level, time and caller, syslog, journald (in
  any language), netconsole, ``dmesg -T`` and ``-x``, the stamps of console programs and of test labs;
* a line that a mail program broke at a blank, a terminal at column 80, or some tool anywhere: `Log.joined` offers the
  pieces, and the caller takes them only if they make one whole statement that ends where the last piece ends; of a
  number that is broken elsewhere than at column 80, only if it cannot lack a digit.

All text is Latin-1: one character for one byte (of UTF-16: for one code unit), so that nothing is lost and nothing
is invented.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

TERMINAL_COLUMNS = 80
# No kernel, with whatever stands before it, writes longer lines; what lies behind is not looked at.
LINE_CHARACTERS_MAX = 8192

_LINE_END = re.compile(rb"\r*\n|\r")
_ESCAPE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[()][0-9A-Za-z]|\x1b[=>78cDEHM]|#033\[[0-9;]*m"
)
# A kernel's command line takes some 30 lines of quoted-printable; nothing that is read here is longer.
_SOFT_BREAKS_MAX = 30
_QUOTED_BYTE = re.compile(r"=([0-9A-F]{2})")
_QUOTED_FILE = re.compile(rb"(?i:transfer-encoding:\s*quoted-printable)|=3D")

_BLANK = r"[ \t\x00]|\xc2\xa0|\xef\xbb\xbf"
_HOST = r"[\w.@\x80-\xff-]+"
# journald writes months in the reader's language, so only what follows tells a stamp from a sentence.
_ANY_MONTH = r"[\w.\x80-\xff]{1,24}[ ]+\d{1,2}[ ]\d\d:\d\d:\d\d"
_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_STAMP = rf"""
    (?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[ ])?\d{{4}}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?
  | (?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),?[ ])?{_MONTH}[ ]+\d{{1,2}}[ ]\d\d:\d\d:\d\d(?:\.\d+)?(?:[ ]\d{{4}})?
  | \d\d[/-]\d\d(?:[/-]\d{{2,4}})?[ ]\d\d:\d\d:\d\d(?:[.,]\d+)?
  | \d\d:\d\d:\d\d(?:[.,:]\d+)?
  | \d+\.\d{{3,9}}(?=[ ])
"""
# Console log before a statement, piece by piece. Words that anyone could write are not among them.
_BEFORE = re.compile(
    rf"""(?: {_BLANK}
      | [>|\#]+ | [A-Za-z]{{1,4}}>                                  # mail quotes, boxes
      | {_ANY_MONTH}[ ]+{_HOST}[ ]+(?:kernel(?:\[\d+\])?:|(?=IA-32[ ]|microcode:[ ]|PANIC:[ ]))
      | (?:{_STAMP}) (?:[ ]+ (?:{_HOST}[ ]+){{1,3}}? (?:kernel|vmunix|klogd)(?:(?:\[\d+\])?:|[ ]-[ ]-[ ]-(?=[ ])))?
      | (?:{_HOST}[ ]+(?:kern\.\w+[ ]+)?)? kernel(?:\[\d+\])?: (?=[ ])
      | kern[ ]*:[ ]*[a-z]+[ ]*:                                    # dmesg -x
      | <\d{{1,3}}>(?:1[ ](?=\d))?                                   # syslog's number, RFC 5424's version
      | \[[ ]*\+?\d+\.\d{{1,9}}(?:[ ]+\d+\.\d{{1,9}})?\] | \[[ ]*[TC]\d+\] | \[[ ]*\d{{1,10}}\] # printk
      | \[[^][\"'`]{{0,40}}\d\d:\d\d[^][\"'`]{{0,24}}\]
      | \d+,\d+,\d+,[^;\"'`]{{0,40}};                               # netconsole
      | \(d\d+(?:v\d+)?\)                                           # a guest's line on Xen's console
      | \d\d[OE]\+?(?=[ ])                                          # GitLab's runner
      | [\w.-]{{1,40}}[ ]*\|
      | MESSAGE=                                                    # journalctl -o verbose
      | (?:tty\w+|console|serial|guest|qemu|stdout|stderr)[\w.-]*:(?=[ ])
    )*+""",
    re.VERBOSE | re.ASCII,
)
_QUOTES = re.compile(rf"(?:{_BLANK}|[>|])*+")
_PRINTK_TIME = re.compile(r"\[ *\d+\.\d{6}\]")


@dataclass(frozen=True)
class Text:
    """Characters with their place in the file: character n is the bytes from `starts[n]` up to `ends[n]`."""

    text: str
    starts: tuple[int, ...] | range
    ends: tuple[int, ...] | range
    last: int
    """Number of the last physical line that is in it, from 0."""
    terminated: bool
    """False if the file ends here, so that nobody knows whether the line did."""

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """Bytes of the characters [start, stop), which are not none."""
        return self.starts[start], self.ends[stop - 1]

    def cut(self, start: int, stop: int) -> Text:
        """The characters [start, stop) alone."""
        return Text(self.text[start:stop], self.starts[start:stop], self.ends[start:stop], self.last, self.terminated)

    def plus(self, glue: str, other: Text) -> Text:
        """Both, with `glue` between them, whose bytes are all that lies between."""
        stop, start = (self.ends[-1], other.starts[0]) if self.text and other.text else (0, 0)
        starts = (*self.starts, *(stop for _ in glue), *other.starts)
        ends = (*self.ends, *(start for _ in glue), *other.ends)
        return Text(self.text + glue + other.text, starts, ends, other.last, other.terminated)


class Log:
    """A file's lines. Lines are numbered from 0 here; a line ends at LF, CR LF or CR."""

    def __init__(self, data: bytes) -> None:
        self.data, self._first, self._width = _one_byte_each(data)
        self.starts = array("Q", [0])
        self._stops = array("Q")
        for end in _LINE_END.finditer(self.data):
            self._stops.append(end.start())
            self.starts.append(end.end())
        if self.starts[-1] == len(self.data) and len(self.starts) > 1:
            self.starts.pop()
        else:
            self._stops.append(len(self.data))
        self.is_quoted = bool(_QUOTED_FILE.search(self.data))
        self._newline = b"\n" if b"\n" in self.data else b"\r"
        self._counted = (0, 1)

    def __len__(self) -> int:
        return len(self.starts)

    def line_of(self, offset: int) -> int:
        """The line in which a byte lies."""
        return bisect_right(self.starts, offset) - 1

    def number(self, line: int) -> int:
        """What editors call that line: they count line feeds (or carriage returns where there is no line feed)."""
        before, count = self._counted if self._counted[0] <= self.starts[line] else (0, 1)
        self._counted = (self.starts[line], count + self.data.count(self._newline, before, self.starts[line]))
        return self._counted[1]

    def clean(self, line: int) -> Text:
        """One line without escapes; in quoted-printable with the lines that it goes on to."""
        text = self._plain(line)
        if not self.is_quoted:
            return text
        whole = _unquoted(text)
        for _ in range(_SOFT_BREAKS_MAX):
            if not text.text.endswith("=") or text.last + 1 >= len(self):
                break
            text = self._plain(text.last + 1)
            whole = whole.cut(0, len(whole.text) - 1).plus("", _unquoted(text))
        return whole

    def _plain(self, line: int) -> Text:
        start, stop = self.starts[line], self._stops[line]
        length = min(stop - start, LINE_CHARACTERS_MAX)
        characters = self.data[start : start + length].decode("latin-1")
        first, width = self._first + self._width * start, self._width
        starts = range(first, first + width * length, width)
        ends = range(first + width, first + width * (length + 1), width)
        whole = start + length == stop < len(self.data)
        text = Text(characters, starts, ends, line, whole)
        if "\x1b" in characters or "#033[" in characters:
            text = _without_escapes(text)
        text = text.cut(0, len(text.text.rstrip("\0")))
        return text.cut(0, len(text.text) - 2) if text.text.endswith("^M") else text

    def joined(self, text: Text) -> Iterator[tuple[Text, tuple[int, ...]]]:
        """`text` with the one or two lines behind it, as a terminal, a mail program and any other tool would have
        broken it; and the characters where it was broken by a tool of which nothing is known."""
        for hard, columns in ((True, TERMINAL_COLUMNS), (False, None), (True, None)):
            whole = text
            breaks: tuple[int, ...] = ()
            for _ in range(2):
                if whole.last + 1 >= len(self):
                    break
                if columns and len(self.clean(whole.last).text) != columns:
                    break
                more = self.clean(whole.last + 1)
                if not hard:
                    more = more.cut(len(quotes(more.text)), len(more.text))
                if not more.text.strip() or _PRINTK_TIME.search(more.text):
                    break
                left = whole if hard else whole.cut(0, len(whole.text.rstrip()))
                breaks += (len(left.text),) if hard and not columns else ()
                whole = left.plus("" if hard else " ", more)
                yield whole, breaks

    @cached_property
    def is_wider_than_a_terminal(self) -> bool:
        """Whether some line is longer than 80 columns, so that no terminal of that width has cut the others."""
        wide = (n for n in range(len(self)) if self._stops[n] - self.starts[n] > TERMINAL_COLUMNS)
        return any(len(self.clean(n).text) > TERMINAL_COLUMNS for n in wide)

    def may_go_on(self, text: Text) -> bool:
        """Whether the last word may be cut: no line end, a terminal's edge, or a next line of nothing but digits."""
        if not text.terminated:
            return True
        if len(self.clean(text.last).text) == TERMINAL_COLUMNS and not self.is_wider_than_a_terminal:
            return True
        if text.last + 1 >= len(self):
            return False
        return re.fullmatch(r"[>| \t]*[0-9a-f]{1,16}\s*", self.clean(text.last + 1).text) is not None


def before(text: str) -> str:
    """What console programs, loggers and mail put before the kernel's text at the start of a line."""
    found = _BEFORE.match(text)
    return found[0] if found else ""


def quotes(text: str) -> str:
    """Quotation marks and blanks at the start of a line."""
    found = _QUOTES.match(text)
    return found[0] if found else ""


def is_printk(prefix: str) -> bool:
    """Whether what stands before is, or contains, printk's own time stamp."""
    return _PRINTK_TIME.search(prefix) is not None


def _one_byte_each(data: bytes) -> tuple[bytes, int, int]:
    """`data` as one byte for each character, the offset of the first in `data`, and the width of each."""
    if data[:2] not in (b"\xff\xfe", b"\xfe\xff"):
        return data, 0, 1
    low, high = (data[2::2], data[3::2]) if data[0] == 0xFF else (data[3::2], data[2::2])
    low, high = low[: len(data) // 2 - 1], high[: len(data) // 2 - 1]
    if high.count(0) != len(high):
        low = bytes(0x1A if above else byte for byte, above in zip(low, high, strict=False))
    return low, 2, 2


def _without_escapes(text: Text) -> Text:
    keep: list[int] = []
    at = 0
    for escape in _ESCAPE.finditer(text.text):
        around = text.text[max(0, escape.start() - 1) : escape.start()] + text.text[escape.end() : escape.end() + 1]
        # Within a word only colours are believed: else a damaged byte would take a digit with it.
        if len(around) == 2 and around.isalnum() and escape[0][-1] not in "mK":
            continue
        keep.extend(range(at, escape.start()))
        at = escape.end()
    keep.extend(range(at, len(text.text)))
    return _chosen(text, keep)


def _unquoted(text: Text) -> Text:
    """Quoted-printable's ``=3D`` as the byte that it stands for."""
    characters, starts, ends = [], [], []
    at = 0
    while at < len(text.text):
        code = _QUOTED_BYTE.match(text.text, at)
        stop = code.end() if code else at + 1
        characters.append(chr(int(code[1], 16)) if code else text.text[at])
        starts.append(text.starts[at])
        ends.append(text.ends[stop - 1])
        at = stop
    return Text("".join(characters), tuple(starts), tuple(ends), text.last, text.terminated)


def _chosen(text: Text, keep: list[int]) -> Text:
    return Text(
        "".join(text.text[n] for n in keep),
        tuple(text.starts[n] for n in keep),
        tuple(text.ends[n] for n in keep),
        text.last,
        text.terminated,
    )
