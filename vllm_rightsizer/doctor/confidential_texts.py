"""Texts without the secrets in them: logs, messages, scripts. Pure.

No library does this: scanners of repositories find lines with secrets, not where a value ends. Every pattern here
either begins at a place that the one before it cannot have read, or takes what it has read: hostile lines are long.
"""

from __future__ import annotations

import base64
import binascii
import re

from vllm_rightsizer.doctor.confidential_names import (
    HIDDEN,
    SWITCHES,
    is_confidential,
    is_plain,
    is_set,
    set_of,
    takes_the_line,
    tells_nothing,
    words_of,
)

_MARK = "\ue000"
"""What is hidden, while there are still patterns to come: a letter that no word and no blank is made of."""
_BREAKS = ("\ue001", "\ue002", "\ue003", "\ue004")
"""Stand behind a line break that was written as `\\n`: with 1, 2, 4 or 8 backslashes, as JSON in a text has it."""
_BREAK = re.compile(r"(?<!\\)\\(?:\\|\\{3}|\\{7})?n")
_BREAK_AGAIN = re.compile("\n([\ue001-\ue004])")
_HIDDEN_ALREADY = re.compile(rf"""\\*["']?{_MARK}(?!\w)""")
_PUBLIC = r"(?:CERTIFICATE(?:\ REQUEST)?|TRUSTED\ CERTIFICATE|(?:RSA\ |EC\ )?PUBLIC\ KEY|X509\ CRL)-----"
_PEM = re.compile(
    rf"""-----BEGIN\ (?!{_PUBLIC})[A-Z0-9 ]++-----
    (?:(?!-----END\ )[\w\s+/=\\:.,\ue001-\ue004-])*+ (?:-----END\ [A-Z0-9 ]++-----)?""",
    re.VERBOSE,
)
_TIME = r"[\ue001-\ue004]?(?:\d{4}-\d\d-\d\dT[\d:.+Z-]{1,40}[ ])?"
"""As the API server puts it before each line of a log."""
_OF_PEM = re.compile(rf"{_TIME}[\w+/=]+\s*")
_END_OF_LINE = re.compile(r"(?<![\w+/=])[\w+/=]{16,}\s*$")
_ADDRESS = re.compile(r"""://(?P<rest>[^\s"'<>`]++)""")
_LOGIN_WITH_SLASH = re.compile(r"[^/:@]*+:(?!\d{1,5}(?![^/?#,;:)\]}])).*@", re.DOTALL)
_QUERY = re.compile(r"""(?<=[\w/])\?[\w.%\[\]-]++=[^\s"'<>`]*+""")
_PARAMETER = re.compile(r"([?&;#])([\w.%\[\]-]++)=([^&;#:]*+(?::(?!\Z)[^&;#:]*+)*+)")
_KEPT_PARAMETERS = set_of(
    "allowWatchBookmarks container dir dryRun end fieldManager fieldSelector fieldValidation follow force "
    "gracePeriodSeconds labelSelector limit match[] namespace ns pretty previous query resourceVersion "
    "resourceVersionMatch scope sendInitialEvents service start step tailLines time timeout timeoutSeconds timestamps "
    "watch"
)
"""Of the Kubernetes API, of Prometheus and of registries; any other may be a signature."""
_NOT_AFTER_NAME = r"(?:(?<![\w-])|(?<=\\[nrt]))"
_TO = r"""\b(?:[^\n|;&]|(?<=\\)\n){0,200}?[ \t"']"""
_NEXT = r"""(?>["'],[ \t]*["']|[ \t]*["']?)"""
_PROGRAMS = re.compile(
    rf"""(?P<kept>(?<!\S)(?:-{SWITCHES}[uU]|--user|--proxy-user)[ \t=]*["']?(?=[^\s:"']{{0,200}}:(?!//))
    |\b(?:login|sshpass|(?:mysql|mariadb)\w{{0,9}}){_TO}-p{_NEXT}(?![-"'\]])
    |\b(?:redis|valkey)-cli{_TO}-a{_NEXT}(?![-"'\]])
    |\bcurl{_TO}-{SWITCHES}b[ \t]*(?=[^\s"'=]{{1,200}}=)
    |\blogin[ \t]+\S{{1,200}}[ \t]+password[ \t]+)[^\s"']++
    |(?P<header>(?<!\S)-{SWITCHES}H[ \t]*["'][\w-]{{1,80}}:[ \t]*
    |\bcurl{_TO}-{SWITCHES}b[ \t]*["'](?=[^\s"'=]{{1,200}}=))[^\n"']++""",
    re.VERBOSE,
)
"""Users, headers and cookies given to curl, passwords to other programs."""
_ELEMENT = re.compile(r"(<(?P<name>[\w.:-]{1,80})(?:\s[^<>]{0,200})?>)(?P<value>[^<>]++)(?=</)")
_NAMED = re.compile(
    rf"""(?<![\w.-])(?P<name>[\w.-]*[\w-])\+?
    (?: (?P<pair>\\*["']?(?:[ \t]*,[ \t]*|\s*\n{_TIME}[ \t]*)\\*["']?value\\*["']?[ \t]*[:=][ \t]*)
      | (?P<assigned>\\*["']?\]?(?P<before>[ \t]*)(?::=|=>|->|==?|:)[ \t]*)
      | (?P<item>\\*["'][ \t]*,\s*(?=\\*["']))
      | (?P<blank>(?:[ \t]|\\\r?\n)++)(?!-)
    )""",
    re.VERBOSE | re.IGNORECASE,
)
_BEGINS_LINE = re.compile(rf"""{_TIME}[ \t]*(?:-[ ])?["']?""")
_GOES_ON = re.compile(rf"""{_TIME}(?:[ \t]+\S|[\]}})"'-])""")
_BLOCK = re.compile(r"(?:[|>][-+\d]*)?[ \t]*(?:\#[^\n]*)?\r?\n")
_QUOTED = re.compile(
    r"""[bBuUrRfF]{0,2}(?:"(?:[^"\\\n]|\\.|\n[\ue001-\ue004])*+"?|'(?:[^'\\\n]|\\.|\n[\ue001-\ue004])*+'?|`[^`\n]*+`?)"""
)
_BARE = re.compile(r"""(?:[^\s"'`\\]|\\++(?!["'\n]))++""")
_JOINED = re.compile(
    r"""[^\s,;)\]}>|&:"'`\\] | ["'`][^\s,;)\]}"'`] | ["'`]{2}[^\s,;)\]}]
    | \\+["'](?:[^\s,;)\]}"'`\\]|'[^\s,;)\]}])""",
    re.VERBOSE,
)
"""What follows a part of a value, where a shell joins the next one to it."""
_ESCAPED_QUOTE = re.compile(r"""\\+["']""")
_QUOTE = re.compile(r"""\\*["']""")
_TO_QUOTE = re.compile(r"""(?:[^"'\\\n]|\\++(?!["']))++""")
_TO_SEMICOLON = re.compile(r"""(?:[ \t]++[^\s;"'`=&|\\]++)++(?=;)""")
_CALLED = re.compile(r"""\([bBuUrR]?\\*["']\Z""")
_SCHEME = re.compile(r"(?:Basic|Bearer|Digest|Negotiate|NTLM|Token|ApiKey|AWS4-HMAC-SHA256)[ \t]+", re.IGNORECASE)
_PIECES = re.compile(r"""(?P<quote>(?<!\\)\\*+["'])|(?P<open>[\[({])|(?P<close>[\])}])|(?P<newline>\n)""")
_LONGEST_PLAIN = 100
_NEXT_WORD = re.compile(r"""[ \t]+(?![-|&;<>\\\s])""")
_NEXT_ITEM = re.compile(r"""[ \t]*,\s*(?=\\*["'](?!-))""")
"""vLLM takes several values behind `--api-key`."""
_STRONG = (
    r"""(?:pass(?:wor[dt]|wd|phrase)|pwd|(?:api|access|secret|private|signing|account|shared|licen[cs]e)[ _-]?key)"""
)
_QUALIFIED = r"(?:\ (?:provided|given|used|supplied|received|sent|value|(?:for|from|of)\ [^\s:]{1,80})){0,3}"
_SAID = re.compile(
    rf"""(?<![\w-])(?P<kept>(?:
        (?P<name>(?:{_STRONG}|token|secret|credential|jwt)s?){_QUALIFIED}
        (?:\s+(?:is|was|are|equals)(?:\ (?:now|set\ to|still))?:?|:|\s+set\ to)\s+
      | {_STRONG}\s+(?=[^\s\d=]{{0,99}}\d)(?=[^\sA-Za-z=]{{0,99}}[A-Za-z])
      | {_STRONG}\s+(?=\\*["'])
      | token\s+(?=["']?[^\s=:"']{{10}})(?=[^\s\d=]{{0,99}}\d)(?=[^\sA-Za-z=]{{0,99}}[A-Za-z])
      | bearer\s+
    ))(?P<value>\\*"[^"\n]*+"?|\\*'[^'\n]*+'?|[^\s"']*[^\s"'.,;)])""",
    re.VERBOSE | re.IGNORECASE,
)
_SHAPES = re.compile(
    rf"""{_NOT_AFTER_NAME}(?:
      hf_\w{{16,}}|api_org_\w{{16,}}|sk-[\w-]{{16,}}|[rsp]k_(?:live|test)_\w{{10,}}|whsec_\w{{16,}}|gsk_\w{{16,}}
      |gh[opusr]_\w{{16,}}|github_pat_\w{{16,}}|gl[a-z]{{2,6}}-[\w-]{{16,}}|glsa_\w{{16,}}|xox[a-z]-[\w-]{{10,}}
      |xapp-[\w-]{{10,}}|(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{{12,}}|AIza[\w-]{{30,}}|ya29\.[\w.-]{{16,}}|npm_\w{{16,}}
      |pypi-[\w-]{{16,}}|SG\.[\w.-]{{16,}}|dop_v1_\w{{16,}}|dckr_[a-z]{{2,4}}_[\w-]{{16,}}|nvapi-[\w-]{{16,}}
      |r8_\w{{16,}}|xai-[\w-]{{16,}}|pplx-\w{{16,}}|hv[sbr]\.[\w.-]{{16,}}|lsv2_\w{{16,}}|AGE-SECRET-KEY-\w{{16,}}
      |ey[AJ][\w+/=.-]{{16,}}|ewog[\w+/=]{{16,}}|ewoJ[\w+/=]{{16,}}
    )|(?<=hooks\.slack\.com/services/)[\w/-]++|(?<=/api/webhooks/)[\w/-]++|(?<=/bot)\d{{6,}}+:[\w-]++""",
    re.VERBOSE,
)
"""What is a token by its looks: those of well-known issuers, JWTs, and JSON in base64, as registries' logins are."""
_PEM_IN_BASE64 = re.compile(r"LS0tLS1CRUdJTi[A-Za-z0-9+/=]*+")
_LOGIN = re.compile(r"""(?<=[\w.-]):(?!//)[^\s:@/"'()]++@(?!sha\d)(?=[\w(\[])""")
"""`user:password@host` without a scheme; `image:tag@sha256:…` is none."""


def without_secrets(text: str) -> str:
    """A text that people read, as little changed as can be. Twice is as good as once."""
    text = _BREAK.sub(lambda found: f"\n{_BREAKS[(len(found[0]) - 1).bit_length() - 1]}", text.replace(HIDDEN, _MARK))
    text = _PEM.sub(_MARK, _without_end_of_pem(text))
    text = _PEM_IN_BASE64.sub(lambda found: found[0] if _is_public(found[0]) else _MARK, text)
    text = _ADDRESS.sub(lambda found: "://" + "://".join(map(_address, found["rest"].split("://"))), text)
    text = _QUERY.sub(lambda found: _parameters(found[0]), text)
    text = _PROGRAMS.sub(lambda found: f"{found['kept'] or found['header']}{_MARK}", text)
    text = _without_named(_ELEMENT.sub(_element, text))
    text = _SAID.sub(_said, text)
    text = _LOGIN.sub(f":{_MARK}@", _SHAPES.sub(_MARK, text)).replace(_MARK, HIDDEN)
    return _BREAK_AGAIN.sub(lambda found: "\\" * 2 ** _BREAKS.index(found[1]) + "n", text)


def without_tokens(text: str) -> str:
    """Without what looks like a token, whatever stands before it."""
    return _SHAPES.sub(HIDDEN, text)


def _without_end_of_pem(text: str) -> str:
    """A log may begin within a private key."""
    before, end, after = text.partition("-----END ")
    if not end or "-----BEGIN " in before or "PRIVATE KEY" not in after[:40]:
        return text
    lines = before.split("\n")
    while len(lines) > 1 and _OF_PEM.fullmatch(lines[-2]):
        del lines[-2]
    begun = [_END_OF_LINE.sub(_MARK, line) for line in lines[-2:-1]]
    return "\n".join([*lines[:-2], *begun, f"{_MARK}{end}{after}"])


def _is_public(encoded: str) -> bool:
    try:
        decoded = base64.b64decode(encoded.rstrip("=") + "=" * (-len(encoded.rstrip("=")) % 4))
    except binascii.Error:
        return False
    return _PEM.search(decoded.decode(errors="replace")) is None


def _address(text: str) -> str:
    """What stands behind `://`, up to the next one."""
    authority = re.split("[/?#]", text, maxsplit=1)[0]
    slashed = None if "@" in authority else _LOGIN_WITH_SLASH.match(text.partition("?")[0])
    if "@" in authority:
        text = f"{_MARK}{text[authority.rindex('@') :]}"
    elif slashed is not None:
        text = f"{_MARK}{text[slashed.end() - 1 :]}"
    return _parameters(text)


def _parameters(text: str) -> str:
    def shown(found: re.Match[str]) -> str:
        number = found[3].isdigit() and len(found[3]) < 10 and not is_confidential(found[2])
        return found[0] if found[2] in _KEPT_PARAMETERS or number else f"{found[1]}{found[2]}={_MARK}"

    return _PARAMETER.sub(shown, text)


def _element(found: re.Match[str]) -> str:
    """Of XML."""
    hidden = is_confidential(found["name"]) and not tells_nothing(found["name"], found["value"].strip())
    return f"{found[1]}{_MARK}" if hidden else found[0]


def _said(found: re.Match[str]) -> str:
    value = found["value"].strip("\\\"'")
    name = found["name"] or ""
    quoted = found["value"][0] in "\\\"'"
    if tells_nothing(name, value.rstrip(".,;")) or value.isdigit() or (not quoted and is_plain(name, value)):
        return found[0]
    return f"{found['kept']}{_MARK}"


def _without_named(text: str) -> str:
    """Without values behind confidential names."""
    kept: list[str] = []
    at = done = 0
    while found := _NAMED.search(text, at):
        name = found["name"]
        at = found.end("name")
        if is_confidential(name) and _has_value(text, found):
            begin, end = _value(text, found)
            if end > begin:
                kept += (text[done:begin], _MARK)
                done = at = end
    return "".join([*kept, text[done:]])


def _has_value(text: str, found: re.Match[str]) -> bool:
    """Whether what stands behind a name belongs to it: behind a blank or a comma that is seldom so."""
    name, begin = found["name"], found.end()
    if name.startswith("-") or not (found["item"] or found["blank"]):
        return True
    before = text[max(0, found.start() - 80) : found.start()]
    if found["item"]:
        return "_" in name and _CALLED.search(before) is not None
    value = text[begin : begin + _LONGEST_PLAIN].partition(" ")[0]
    return is_set(name, before, value) and not is_plain(name, value)


def _value(text: str, found: re.Match[str]) -> tuple[int, int]:
    """From where to where what is not to be shown stands; nothing, where it may be shown."""
    name, begin = found["name"], found.end()
    if _HIDDEN_ALREADY.match(text, begin):
        return begin, begin
    if found["assigned"] is not None and (block := _BLOCK.match(text, begin)):
        return begin, _block_end(text, block.end())
    if text[begin : begin + 1] in tuple("{[("):
        end = _compound_end(text, begin)
        return begin, begin if tells_nothing(name, text[begin:end]) else end
    if takes_the_line(name):
        return _rest_of_line(text, found)
    if escaped := _ESCAPED_QUOTE.match(text, begin):
        end, closed = _closed(text, escaped[0], escaped.end())
        if closed and tells_nothing(name, text[escaped.end() : end - len(escaped[0])]):
            return begin, begin
        return begin, _last_of_several(text, found, _joined_end(text, end))
    end, quoted = _word_end(text, begin)
    value = text[begin:end]
    bare = value.strip("\"'`") if quoted else value.rstrip(",;)]}>")
    plain = not quoted and len(bare) < _LONGEST_PLAIN and _is_prose(found) and is_plain(name, bare)
    if plain or tells_nothing(name, value) or tells_nothing(name, bare):
        return begin, begin
    if not quoted:
        end = begin + len(bare)
        further = _further(text, found)
        line = further.match(text, end) if further else None
        end = line.end() if line else end
    return begin, _last_of_several(text, found, end)


def _last_of_several(text: str, found: re.Match[str], end: int) -> int:
    following = _NEXT_ITEM if found["item"] else _NEXT_WORD
    several = (found["item"] or found["blank"]) and words_of(found["name"])[:1] == ["api"]
    while several and (more := following.match(text, end)):
        escaped = _ESCAPED_QUOTE.match(text, more.end())
        end = _closed(text, escaped[0], escaped.end())[0] if escaped else _word_end(text, more.end())[0]
    return end


def _rest_of_line(text: str, found: re.Match[str]) -> tuple[int, int]:
    """A header's value but for its scheme: up to the quote before it, the one before its name, or the line's end."""
    begin = found.end()
    quote = _QUOTE.match(text, begin)
    begin = quote.end() if quote else begin
    if not quote and is_plain(found["name"], text[begin : begin + _LONGEST_PLAIN].partition(" ")[0]):
        return begin, begin
    before = text[found.start() - 1 : found.start()]
    end, closed = _closed(text, quote[0] if quote else before if before in ("'", '"') else "\n", begin)
    end -= len(quote[0]) if closed and quote else int(closed)
    scheme = _SCHEME.match(text, begin)
    begin = scheme.end() if scheme else begin
    return begin, begin if tells_nothing(found["name"], text[begin:end].strip()) else end


def _closed(text: str, quote: str, begin: int) -> tuple[int, bool]:
    """Behind the next `quote` with as many backslashes, or the line's end; and whether there was one."""
    closing = re.compile(rf"(?<!\\){re.escape(quote)}|\n(?![\ue001-\ue004])").search(text, begin)
    if closing is None:
        return len(text), False
    return (closing.end(), True) if closing[0] == quote else (closing.start(), False)


def _is_prose(found: re.Match[str]) -> bool:
    """Whether somebody may speak of a name here, or a source line hands it on; in a command it has a value."""
    return not found["name"].startswith("-") and found["assigned"] is not None


def _further(text: str, found: re.Match[str]) -> re.Pattern[str] | None:
    """What a value with blanks goes on with: in YAML and INI to its line's end, as behind people's `password:`; of a
    database's address (`Password=a b;`) to a semicolon."""
    name, assigned = found["name"], found["assigned"] or ""
    if assigned == "=" and (name in ("Password", "Pwd") or text[found.start() - 1 : found.start()] == ";"):
        return _TO_SEMICOLON
    if not assigned.endswith(" "):
        return None
    prose = ":" in assigned and "passw" in name.lower()
    line = (":" in assigned or found["before"]) and _begins_line(text, found.start())
    return _TO_QUOTE if prose or line else None


def _word_end(text: str, begin: int) -> tuple[int, bool]:
    """The end of a word of a shell, and whether it begins with a quote; `'a'\\''b'` is one."""
    quoted = _QUOTED.match(text, begin)
    first = quoted or _BARE.match(text, begin)
    return (_joined_end(text, first.end()) if first else begin), quoted is not None


def _joined_end(text: str, end: int) -> int:
    while _JOINED.match(text, end):
        part = _QUOTED.match(text, end) or _BARE.match(text, end) or _ESCAPED_QUOTE.match(text, end)
        if part is None:
            break
        end = part.end()
    return end


def _block_end(text: str, begin: int) -> int:
    """Of indented lines, which YAML has behind a name."""
    while begin < len(text) and _GOES_ON.match(text, begin):
        line = text.find("\n", begin)
        begin = len(text) + 1 if line < 0 else line + 1
    return begin - 1


def _compound_end(text: str, begin: int) -> int:
    """Behind the bracket that closes the one at `begin`. Where none does, the end of its lines."""
    depth, quote = 0, ""
    for piece in _PIECES.finditer(text, begin):
        if piece["newline"]:
            quote = ""
            if not _GOES_ON.match(text, piece.end()):
                return piece.start()
        elif quote:
            same = piece[0] == quote or (quote in "\"'" and piece[0][-1] == quote and len(piece[0]) % 2)
            quote = "" if same else quote
        elif piece["quote"]:
            quote = piece[0]
        else:
            depth += 1 if piece["open"] else -1
            if depth == 0:
                return piece.end()
    return len(text)


def _begins_line(text: str, at: int) -> bool:
    line = text.rfind("\n", max(0, at - 80), at) + 1
    return at - line <= 80 and _BEGINS_LINE.fullmatch(text, line, at) is not None
