"""Which names speak of a secret, and which values tell nothing even behind such a name. Pure.

A name counts with any word of it: `HF_TOKEN_READ`, `apiKey`, `--s3-secret-access-key`. What it ends in may say that it
is about a secret only: `token_count`, `secretName`, `ssl-keyfile`.
"""

from __future__ import annotations

import re

HIDDEN = "(left out)"


def set_of(words: str) -> frozenset[str]:
    return frozenset(words.split())


_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SECRET_WORDS = set_of(
    "key keys token tokens auth auths oauth pass pw pwd pat jwt sig signature sas dsn salt header headers cookie "
    "cookies bearer cred creds netrc dockerconfigjson dockercfg masterauth mnemonic watermark"
)
_SECRET_PARTS = (
    "secret",
    "passw",
    "passphrase",
    "kennwort",
    "credential",
    "authoriz",
    "apikey",
    "accesskey",
    "watermark",
)
_SECRET_ENDS = ("key", "keys", "token", "pass", "pwd")
_OTHER_WORDS = set_of("monkey turkey hotkey whiskey bypass compass")
_ABOUT = set_of(
    "adaptive algo algorithm audience bias bucket budget budgets cache caches class classes count counts created "
    "details dim dir dtype enabled endpoint error errors exception exceptions expiration expires expiry file files "
    "format head heads id ids idx index issuer keyfile len length lengths limit max min missing mode name names num "
    "only path paths policy prob proj rate ref refs required revision seconds shape size sizes sum threshold total ttl "
    "type types usage version warning"
)
"""Last words of names that are about a secret, or about tokens of a text."""
_SECRET_IDS = frozenset(("key", "secret", "session"))
_OF_TEXTS = set_of(
    "audio bos cls decode eos first image last mask max min next num pad per prefill prompt sep special stop unk video"
)
_NO_SECRETS = frozenset(
    (
        "allow credentials",
        "allowed headers",
        "image pull secret",
        "image pull secrets",
        "pass config",
        "public key",
        "pull secret",
        "tls secret",
    )
)
_ABBREVIATED = re.compile(r"-{1,2}(?:api[-_]ke?|hf[-_]t(?:o(?:ke?)?)?)")
"""vLLM's `--api-key` and `--hf-token`, as far as its parser takes beginnings of them."""
_WHOLE_LINE = re.compile(r"authoriz|cookie|passphrase|mnemonic", re.IGNORECASE)
_NOTHING = re.compile(
    r"""none|null|nil|true|false|undefined|empty|[*x]{3,}|~|[<\[(]?(?:redacted|hidden|masked|left\ out)[>\])]?
    |\$\([A-Za-z_][\w.-]*\)|\$\{[A-Za-z_]\w*\}|""",
    re.IGNORECASE | re.VERBOSE,
)
_NUMBERS = re.compile(r"(?:[\s\d.,\[\](){}kKMG+-]|(?<=\d)_(?=\d)|(?<=[\d.])[eE](?=[+-]?\d))*")
_PLAIN_WORDS = set_of(
    "a accepted after again all allowed also already an and any are as at before being between but by can cannot "
    "changed could denied disabled does empty enabled equal errors exceeded expired expiring fails failed fine for "
    "forbidden found from given gone has have here if in incorrect insufficient invalid is it its kept left lost "
    "malformed mandatory may mismatch missing must needed never new no not now null of off ok old on only optional or "
    "out present provided read ready refused rejected required revoked rotated rotation set shorter should so still "
    "stored that the their there this to too unable unauthorized unavailable unchanged unexpected unknown unset "
    "unsupported used valid verification was when where which will with without wrong "
    "authentication token tokens auth any bool bytes dict float int lambda list object optional str string tuple"
)
"""What stands behind a name where people write about it, or in the source lines of a traceback."""
_REASONS = set_of(
    "argument client configmaps connection context dial env environment eof get head http https lookup net/http option "
    "post put request response rpc secrets server serviceaccount serviceaccounts status timeout tls variable x509"
)
"""How a reason begins that stands behind `token:`; all of them may be passwords, too."""
_CODE = re.compile(r"(?:self|os|cls|args|config|envs|request|str|len|next|iter|dict|list|tuple|Optional)[.(\[]")

_SETS = re.compile(r"(?<![\w-])(?:set|SET|setenv|ENV)(?:[ \t]+-[\w-]{1,20}){0,3}[ \t]+\Z")
_OF_ENVIRONMENT = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+")
_SET_BY_REDIS = ("requirepass", "masterauth")
_ARE_PROGRAMS = re.compile(r"curl|redis-cli|valkey-cli|sshpass|login|mysql\w*|mariadb[\w-]*")
SWITCHES = "[fgikLsSvN]*"
"""Short options of curl's that take nothing and may stand before one that does: `-su`."""
_LOGINS = (
    (re.compile(""), re.compile(rf"-{SWITCHES}[uUH]|--user|--proxy-user"), re.compile(r"[^:]*:(?!//)")),
    (re.compile(r"curl"), re.compile(rf"-{SWITCHES}b"), re.compile(r"[^=]*=")),
    (re.compile(r"redis-cli|valkey-cli"), re.compile(r"-a"), re.compile("")),
    (re.compile(r"sshpass|login|mysql|mariadb"), re.compile(r"-p"), re.compile(r"(?!-)")),
)
"""Beginnings of programs, their options, beginnings of what is not to be shown behind these."""


def words_of(name: str) -> list[str]:
    """In small letters: `HFToken` is `hf`, `token`."""
    return [word.lower() for word in _WORDS.findall(name)]


def is_confidential(name: str) -> bool:
    """Whether what stands behind it is not to be shown."""
    if name.startswith("-") and _ABBREVIATED.fullmatch(name):
        return True
    words = words_of(name)
    named = [word for word in words if not word.isdigit()]
    if not named or " ".join(named) in _NO_SECRETS:
        return False
    if named[-1] == "id" and len(named) > 1:
        return named[-2] in _SECRET_IDS
    if named[-1] in _ABOUT or (named[-1] == "token" and _OF_TEXTS.intersection(named)):
        return False
    return any(map(_is_secret, named))


def _is_secret(word: str) -> bool:
    if word in _SECRET_WORDS or any(part in word for part in _SECRET_PARTS):
        return True
    return len(word) > 3 and word.endswith(_SECRET_ENDS) and word not in _OTHER_WORDS


def takes_the_line(name: str) -> bool:
    """Whether its value may have blanks in it: a header, a passphrase."""
    return _WHOLE_LINE.search(name) is not None


def tells_nothing(name: str, value: str) -> bool:
    """Whether `value` may be shown behind a confidential `name`: it is empty, a reference, or a number of tokens."""
    if _NOTHING.fullmatch(value):
        return True
    words = words_of(name)
    if {word for word in words if _is_secret(word)} <= {"tokens", "headers"} and _NUMBERS.fullmatch(value):
        return True
    return words in (["pwd"], ["oldpwd"]) and value.startswith("/")


def is_plain(name: str, value: str) -> bool:
    """Whether a value without quotes is a word of a sentence, or code of a traceback."""
    value = value.rstrip(",;:.)]}")
    word = value.lower()
    if word in _PLAIN_WORDS or (word in _REASONS and "pass" not in name.lower()):
        return True
    return value == name or _CODE.match(value) is not None


def is_set(name: str, before: str, value: str) -> bool:
    """Whether a confidential `name` gets the `value` behind it without a sign between them: `ENV HF_TOKEN value`.

    `before`: what stands before the name, its end at least.
    """
    if name.lower() in _SET_BY_REDIS:
        return True
    return "_" in name and not _OF_ENVIRONMENT.fullmatch(value) and _SETS.search(before[-80:]) is not None


def program_of(word: str) -> str:
    """The program that is called, where it is one that takes logins in short options; else nothing."""
    name = word.rpartition("/")[2]
    return name if _ARE_PROGRAMS.fullmatch(name) else ""


def is_login(program: str, option: str, value: str) -> bool:
    """Whether `option` gives the `program` a user, a password, a header or a cookie; the first two any program."""
    return any(
        programs.match(program) and options.fullmatch(option) and values.match(value)
        for programs, options, values in _LOGINS
    )
