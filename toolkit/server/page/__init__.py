"""The page for people: one file of HTML with its style and script inside, and nothing from elsewhere."""

import base64
import hashlib
import re
from functools import cache
from pathlib import Path


@cache
def html() -> bytes:
    """The page, UTF-8."""
    return Path(__file__).with_name("page.html").read_bytes()


@cache
def headers() -> dict[str, str]:
    """What to send along: the browser may run this page's own script and style, ask this server, and nothing else."""
    style, script = (
        "'sha256-" + base64.b64encode(hashlib.sha256(found.group(1)).digest()).decode() + "'"
        for tag in (b"style", b"script")
        for found in re.finditer(b"<" + tag + b">(.*?)</" + tag + b">", html(), re.DOTALL)
    )
    return {
        "content-type": "text/html; charset=utf-8",
        "content-security-policy": f"default-src 'none'; style-src {style}; script-src {script}; "
        "img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }
