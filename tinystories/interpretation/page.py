"""The text as a page of HTML: point at a token to see what the model expected. No JavaScript."""

from html import escape

from tinystories.interpretation.text import MOST_BITS, Surprise

HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #222; --paper: #fff; --line: #bbb; --hot: 213, 94, 0; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #ddd; --paper: #181818; --line: #555; }}
}}
body {{ max-width: 46rem; margin: 2rem auto; padding: 0 1rem 9rem; color: var(--ink);
  background: var(--paper); font: 1.1rem/2 system-ui, sans-serif; }}
h1 {{ font-size: 1.1rem; }}
p.text {{ white-space: pre-wrap; overflow-wrap: anywhere; }}
.t {{ position: relative; border-radius: .2em; outline: none;
  background: rgba(var(--hot), var(--s)); }}
.t:hover, .t:focus {{ box-shadow: 0 0 0 1px var(--ink); }}
.t > span {{ display: none; position: absolute; left: 0; top: 2em; z-index: 1; white-space: pre;
  padding: .4em .8em; border: 1px solid var(--line); border-radius: .4em; background: var(--paper);
  font: .8rem/1.5 ui-monospace, monospace; }}
.t:hover > span, .t:focus > span {{ display: block; }}
</style></head><body>
<h1>{title}</h1>
<p>{bits:.3f} bits per byte. The redder a token, the more it surprised the model; point at one, or
tap it, to see what the model expected.</p>
<p class="text">"""


def html_page(surprise: Surprise, title: str) -> str:
    """The page; tokens in order, each with its surprise and the likeliest tokens."""
    parts = [HEAD.format(title=escape(title), bits=surprise.bits_per_byte)]
    rows = zip(surprise.pieces, surprise.bits.tolist(), surprise.likeliest, strict=True)
    for piece, bits, likeliest in rows:
        lines = [f"{bits:.2f} bits, {2**-bits:.1%}"]
        lines += [f"{probability:6.1%}  {token}" for token, probability in likeliest]
        strength = f"{min(1, bits / MOST_BITS):.2f}"
        shown = escape(piece) + "\n" * piece.count("\\n")
        note = escape("\n".join(lines))
        parts.append(
            f'<span class="t" tabindex="0" style="--s:{strength}">{shown}<span>{note}</span></span>'
        )
    return "".join(parts) + "</p>\n</body></html>\n"
