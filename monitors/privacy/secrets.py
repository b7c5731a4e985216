"""What API keys, tokens and passwords look like: the prefixes that their makers chose so that they can be found."""

import re

_WORD = r"[A-Za-z0-9_\-]"
_KNOWN = (
    rf"sk-{_WORD}{{16,}}",  # OpenAI, Anthropic, Ostler and many others
    r"(?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9]{16,}",
    r"whsec_[A-Za-z0-9]{16,}",
    r"gh[pousr]_[A-Za-z0-9]{20,}",
    r"github_pat_[A-Za-z0-9_]{20,}",
    rf"gl(?:pat|dt|rt|ft|soat)-{_WORD}{{16,}}",
    r"(?:AKIA|ASIA|AIDA|AROA|AGPA|ANPA)[A-Z0-9]{16}",
    rf"xox[abceoprsd]-{_WORD}{{10,}}",
    rf"xapp-{_WORD}{{10,}}",
    rf"AIza{_WORD}{{30,}}",
    rf"ya29\.{_WORD}{{20,}}",
    rf"GOCSPX-{_WORD}{{20,}}",
    r"(?:hf|npm|gsk|r8)_[A-Za-z0-9]{30,}",
    rf"(?:pypi|xai|pplx|nvapi|dapi|key)-{_WORD}{{30,}}",
    rf"SG\.{_WORD}{{16,}}\.{_WORD}{{16,}}",
    r"do[por]_v1_[a-f0-9]{32,}",
    r"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}",
    r"(?:AC|SK)[a-f0-9]{32}",
    rf"\d{{8,10}}:AA{_WORD}{{30,}}",  # Telegram
    rf"eyJ{_WORD}{{8,1000}}+\.{_WORD}{{8,}}(?:\.{_WORD}*){{0,3}}",  # JWT and JWE
    r"AGE-SECRET-KEY-1[0-9A-Z]{50,}",
)
_PEM = (
    r"-----BEGIN [A-Z0-9 ]{0,40}(?:KEY|CERTIFICATE|MESSAGE)[A-Z0-9 ]{0,20}-----"
    r"(?:[^-]|-(?!----END ))*+(?:-----END [A-Z0-9 ]{0,60}-----)?"
)
_URL_LOGIN = r"(?<=://)[^\s/:@\"'<>]{1,200}:[^\s/@\"'<>]{1,200}(?=@)"
_SCHEME = r"\b(?:bearer|basic)\s+(?P<bearer>[A-Za-z0-9._~+/\-]{12,}=*)"
_NAME = (
    r"(?:api[ _-]?key|access[ _-]?key(?:[ _-]?id)?|secret(?:[ _-]?(?:access[ _-]?)?key)?|client[ _-]?secret"
    r"|account[ _-]?key|auth[ _-]?token|access[ _-]?token|refresh[ _-]?token|token|password|passwd|passphrase|pwd)"
)
# Whatever a pattern may look through and then find nothing has a bound, or many beginnings of it would take for ever.
_MIXED = r"(?=[^\s\"',;]{0,200}\d)(?=[^\s\"',;]{0,200}[A-Za-z])"
_EQUALS = r"[\\\"']{0,3}\s{0,3}(?:[:=]|=>|\bis\b)\s{0,3}[\\\"']{0,3}"
_ASSIGNED = rf"{_NAME}{_EQUALS}(?P<value>{_MIXED}[^\s\"',;\\]{{6,}})"
SECRETS = re.compile(
    "|".join(
        (
            rf"(?<![A-Za-z0-9])(?:{'|'.join(_KNOWN)})",
            _PEM,
            rf"(?i:{_URL_LOGIN})",
            rf"(?i:{_SCHEME})",
            rf"(?i:(?<![A-Za-z0-9]){_ASSIGNED})",
        )
    )
)
"""One pattern for all of them; in the group `value` stands the secret itself where only a part of the match is one."""
