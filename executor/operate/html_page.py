"""The live page of a controller as HTML: no scripts, it reloads itself, for wide screens, phones and the dark."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

RELOAD_S = 10

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1b1b1b; --soft: #555555; --line: #cccccc; --row: #f6f6f6;
  --good: #0a7a3d; --bad: #b3261e; --open: #8a5a00; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181c; --ink: #e6e6e6; --soft: #a8adb5; --line: #3c4048;
  --row: #1e2126; --good: #4cc38a; --bad: #ff8a80; --open: #ffc46b; } }
body { font: 15px/1.5 system-ui, "Segoe UI", sans-serif; color: var(--ink); background: var(--paper); max-width: 66rem;
  margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; }
h2 { font-size: 1.2rem; margin-top: 2rem; border-bottom: 1px solid var(--line); }
p.soft { color: var(--soft); margin: .2rem 0; }
.state { border-left: .35rem solid var(--good); background: var(--row); padding: .35rem .8rem; font-weight: 600; }
.state.open { border-color: var(--open); } .state.bad { border-color: var(--bad); }
.scroll { overflow-x: auto; background: linear-gradient(90deg, var(--paper) 40%, transparent) 0 0 / 2rem 100% no-repeat local,
  linear-gradient(270deg, var(--paper) 40%, transparent) 100% 0 / 2rem 100% no-repeat local,
  linear-gradient(90deg, var(--line), transparent) 0 0 / .6rem 100% no-repeat scroll,
  linear-gradient(270deg, var(--line), transparent) 100% 0 / .6rem 100% no-repeat scroll; }
table { border-collapse: collapse; margin: .8rem 0 .2rem; font-size: .9rem; }
th, td { padding: .25rem 1.1rem .25rem 0; text-align: left; vertical-align: top; }
th { border-bottom: 1px solid var(--soft); } tbody tr:nth-child(even) { background: var(--row); }
.n { text-align: right; font-variant-numeric: tabular-nums; } td.n, td.brief, td.alarm { white-space: nowrap; }
td.alarm { color: var(--bad); font-weight: 600; }
ol { list-style: none; padding: 0; } li { margin: 0 0 1rem; padding-left: .8rem; border-left: 1px solid var(--line); }
li .head { color: var(--soft); font-size: .87rem; overflow-wrap: anywhere; }
li .line { overflow-wrap: anywhere; } li .told { font-weight: 600; }
@media (max-width: 600px) { body { margin: 1rem auto; padding: 0 .8rem; } h1 { font-size: 1.3rem; }
  th, td { padding-right: .8rem; } }
"""


def page(seen: Mapping[str, Any]) -> str:
    """The page of what ``executor.operate.page.snapshot`` saw."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="{RELOAD_S}"><title>scepsy operate</title><style>{STYLE}</style></head><body>
<h1>Plan {_text(seen["plan"])}</h1>
{_state(seen)}
<p class="soft">It has served for at least {_ago(seen["seconds_since_plan"])}. {_calls(seen["calls"], seen["resumed"])}
The page reloads every {RELOAD_S} s.</p>
<h2>Load and latency</h2>
{_workflows(seen)}
<h2>GPUs</h2>
{_table(["GPU", "instances"], [[gpu, ", ".join(on) or "free"] for gpu, on in seen["gpus"].items()])}
<h2>Last decisions</h2>
{_decisions(seen["decisions"])}
</body></html>
"""


def _text(value: object) -> str:
    return escape("–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value))


def _state(seen: Mapping[str, Any]) -> str:
    """What the controller may do, and what keeps it from looking."""
    does = "Acts: it switches plans by itself." if seen["mode"] == "act" else "Advises: it changes nothing."
    if seen["frozen"]:
        does = "Frozen: the freeze file is there, so nothing is switched."
    kind = "state open" if seen["frozen"] else "state"
    told = f'<p class="{kind}">{does}</p>'
    if seen["problem"]:
        told += f'<p class="state bad">The latest look came to nothing: {_text(seen["problem"])}</p>'
    return told


def _ago(seconds: float) -> str:
    """A time in the units that one would say.

    >>> _ago(42.0), _ago(5000.0), _ago(200_000.0)
    ('42 s', '83 min', '56 h')
    """
    for most, unit, name in ((120, 1, "s"), (120 * 60, 60, "min"), (72 * 3600, 3600, "h")):
        if seconds < most:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86400:.0f} days"


def _calls(calls: Mapping[str, int], resumed: int) -> str:
    """How many records were read, which of them tell less than they could, and what was taken wrongly for a while."""
    odd = {
        "unnamed": "name no run",
        "strangers": "are of other workflows",
        "failed": "were not completed",
        "damaged": "could not be read",
    }
    told = "".join(f", {calls[kind]:,} {words}" for kind, words in odd.items() if calls.get(kind))
    early = f" {resumed:,} runs counted as ended while a call of theirs was under way." if resumed else ""
    return f"{calls['read']:,} calls were read{told}.{early}"


def _workflows(seen: Mapping[str, Any]) -> str:
    if not seen["workflows"]:
        return "<p>Nothing has been looked at yet.</p>"
    minutes = f"{seen['window_s'] / 60:.0f} min"
    heads = ["workflow", f"runs/s, last {minutes}", "tested against", "mean latency s", "predicted s", "open runs",
             "strongest drift"]  # fmt: skip
    rows, alarms = [], []
    for name, w in seen["workflows"].items():
        number, strength = max(w["drift"].items(), key=lambda pair: pair[1], default=("", None))
        drift = "–" if strength is None else f"{strength:.2f} ({_number(number)})"
        alarms.append(strength is not None and strength >= 1)
        rows.append([name, w["rate_per_s"], w["planned_rate_per_s"], w["latency_s"], w["predicted_latency_s"],
                     w["open_runs"], drift])  # fmt: skip
    note = "Drift: how far a number has departed from what is tested against, over its alarm threshold. 1 is an alarm."
    return f'{_table(heads, rows, alarms)}<p class="soft">{note}</p>'


def _number(name: str) -> str:
    """What drifts, in words.

    >>> _number("output_tokens:chat"), _number("rate")
    ('output tokens of chat', 'rate')
    """
    number, _, llm = name.partition(":")
    return number.replace("_", " ") + (f" of {llm}" if llm else "")


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]], alarms: Sequence[bool] = ()) -> str:
    """A table that scrolls by itself where it is wider than the screen; in ``alarms`` rows the last cell stands out."""
    numeric = [all(row[n] is None or isinstance(row[n], int | float) for row in rows) for n in range(len(heads))]
    kinds = ["n" if each else "" for each in numeric]
    shown = "".join(_cell("th", head, kind) for head, kind in zip(heads, kinds, strict=True))
    body = ""
    for place, row in enumerate(rows):
        mine = [*kinds[:-1], "alarm" if alarms[place] else "brief"] if alarms else kinds
        body += f"<tr>{''.join(_cell('td', value, kind) for value, kind in zip(row, mine, strict=True))}</tr>"
    return f'<div class="scroll"><table><thead><tr>{shown}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(tag: str, value: object, kind: str) -> str:
    return f'<{tag} class="{kind}">{_text(value)}</{tag}>' if kind else f"<{tag}>{_text(value)}</{tag}>"


def _decisions(decisions: Sequence[Sequence[str]]) -> str:
    """The latest first; what was decided or came of it stands out."""
    items = ""
    for head, *lines in decisions:
        told = ""
        for line in lines:
            kind = "line told" if line.startswith(("Decision:", "Outcome")) else "line"
            told += f'<div class="{kind}">{_text(line)}</div>'
        items += f'<li><div class="head">{_text(head)}</div>{told}</li>'
    return f"<ol>{items}</ol>" if items else "<p>None yet.</p>"
